"""The full-overlap bound: the speed at which all that has to be read is read, and nothing waits.

Needed bytes are those that a token touches less what the memory under the cap could hold. What it could hold
is the cap less what cannot be avoided, an interpreter that does nothing and the keys and values: waste of
ours does not lower the bar.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """Bytes, bytes a second and seconds a token."""

    touched: int
    hold: int
    rate: float
    compute: float

    @property
    def needed(self) -> int:
        """Bytes that have to be read for a token."""
        return max(0, self.touched - self.hold)

    @property
    def io(self) -> float:
        """Seconds that reading them takes."""
        return self.needed / self.rate

    @property
    def tokens_per_second(self) -> float:
        """With reads hidden behind the arithmetic, or the arithmetic behind the reads."""
        return 1 / max(self.compute, self.io)

    @property
    def limit(self) -> str:
        """Which of the two it is."""
        return "the disk" if self.io > self.compute else "the arithmetic"


@dataclass(frozen=True)
class Sweeps:
    """How often a run goes through the weights: once a chunk of the prompt, once a token behind the first.

    The first sweep finds an empty cache and reads all that it touches; the others read what the cache lacks.
    """

    prompt: int
    new: int
    chunk: int

    @property
    def chunks(self) -> int:
        """Sweeps of the prompt."""
        return -(-self.prompt // self.chunk)

    def later(self, read: float, touched: float) -> float:
        """Bytes read by each sweep behind the first, of `read` in all."""
        others = self.chunks + self.new - 2
        return max(0.0, read - touched) / others if others else 0.0

    def first_token(self, read: float, touched: float) -> float:
        """Bytes read before the first token."""
        return min(read, touched + (self.chunks - 1) * self.later(read, touched))
