"""What a run's counters say per pass of the model: by part and by layer, beside the bound. Pure.

A pass is one sweep through the model: a decoded token, a chunk of a prompt, a batch of up to 32 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PARTS = {
    "attention": ("q", "k", "v", "o"),
    "feed-forward": ("gate", "up", "down"),
    "head and embedding": ("head", "embed"),
}
_SUMS = (
    "hit_bytes",
    "read_bytes",
    "aligned_bytes",
    "gap_bytes",
    "unused_bytes",
    "reads",
    "stalls",
    "wait_seconds",
)


@dataclass(frozen=True)
class Account:
    """What one part, one layer or everything did, over all passes.

    `read_bytes` were read and used, `aligned_bytes` beside them because reads begin and end on pages,
    `gap_bytes` between them because one read of neighbours is cheaper than two, `unused_bytes` ahead and in
    vain, or not asked for yet. `compute_seconds` is None where it is not told
    apart (by part).
    """

    name: str
    hit_bytes: int
    read_bytes: int
    aligned_bytes: int
    gap_bytes: int
    unused_bytes: int
    reads: int
    stalls: int
    wait_seconds: float
    compute_seconds: float | None = None

    def bound_share(self, read: Callable[[int], float]) -> float | None:
        """Full overlap's time, max(compute, bytes / rate), as a share of the time it took: 1 is perfect.

        `read` is the rate of reads of a size in GB a second.
        """
        if self.compute_seconds is None or not self.compute_seconds + self.wait_seconds:
            return None
        io = self.read_bytes / (read(self.read_bytes // self.reads) * 1e9) if self.reads else 0.0
        return min(1.0, max(self.compute_seconds, io) / (self.compute_seconds + self.wait_seconds))


def accounts(stats: Mapping[str, Any]) -> Iterator[Account]:
    """Of `Model.stats()`: the parts, the layers (the last is embedding and head), and everything."""
    for name, matrices in PARTS.items():
        yield _sum(name, [one for one in stats["sections"] if _matrix(one["section"]) in matrices])
    for one in stats["layers"]:
        name = "ends" if one["layer"] is None else f"layer {one['layer']}"
        yield _sum(name, [one], one["compute_seconds"])
    yield _sum("all", [stats], stats["compute_seconds"])


def _matrix(section: str) -> str:
    return section.split(".")[0]


def _sum(name: str, counters: list[Mapping[str, Any]], compute: float | None = None) -> Account:
    sums = {key: sum(one[key] for one in counters) for key in _SUMS}
    return Account(name, **sums, compute_seconds=compute)
