"""`m2cache tune`: measures, searches, checks what was found together, and says which recipe answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from m2cache_rs.errors import UsageError
from m2cache_rs.tune import entropy
from m2cache_rs.tune.frontier import Point, best_within, least_bytes, undominated
from m2cache_rs.tune.layers import FIXED_BANDS, UNIFORM, Choice, Shares, of_active, options
from m2cache_rs.tune.search import allocations

OBJECTIVES = ("kl", "entropy")
# Allocations below a budget that are measured as a whole: what layers cost need not quite add up.
_CHECKED = 3


class Measures(Protocol):
    """What the search needs to know of a model; `meter.Meter` on a real one."""

    layers: int

    def point(self, how: str, shares: Sequence[Shares]) -> Point:
        """What layers with these shares cost together."""


Size = Callable[[Sequence[Shares]], float]
"""Bytes of weights a token of layers with these shares, from the layout alone."""


@dataclass
class Tuner:
    """A model of `planes` planes whose recipes are searched by `objective`: "kl" or "entropy".

    `ranking`: bytes that a token touches to rank neurons, beside those that `size` counts.
    """

    meter: Measures
    size: Size
    planes: int
    objective: str = "kl"
    ranking: float = 0

    def __post_init__(self) -> None:
        self.points: list[Point] = []
        self._allocations: list[list[Choice]] | None = None

    @property
    def levels(self) -> tuple[int, ...]:
        """Stored levels, finest first."""
        return tuple(bits for bits, shares in UNIFORM.items() if shares in options(self.planes))

    def uniform(self) -> list[Point]:
        """The uniform levels: members of every search, so that none of them beats what it finds."""
        return [self._point(f"uniform {bits}", UNIFORM[bits]) for bits in self.levels]

    def steps(self, budgets: int) -> int:
        """Recipes that are measured at most, for so many budgets."""
        single = self.meter.layers * len(options(self.planes)) if self.objective == "kl" else 0
        each = _CHECKED + 1 if self.objective == "kl" else len(entropy.PAIRS) * (entropy.STEPS + 1)
        return len(self.levels) + single + budgets * each

    def within(self, budget: float) -> Point:
        """The best recipe of at most `budget` bytes a token. UsageError names the least there is."""
        self.uniform()
        room = budget - self.ranking
        candidates = self._by_kl(room) if self.objective == "kl" else self._by_entropy(room)
        self._keep(candidates)
        found = best_within(self.points, budget, self.objective)
        if found is None:
            least = min(point.bytes for point in self.points)
            raise UsageError(
                f"no recipe touches as few as {budget:.0f} bytes a token; {least:.0f} is the least found"
            )
        return found

    def at_most(self, kl: float) -> Point:
        """The fewest bytes whose measured KL is at most `kl`: budgets are halved until they are close."""
        self.uniform()
        found = self._found()
        least, most = 0, len(found) - 1
        while least < most:
            middle = (least + most) // 2
            point = self._joint(found[middle])
            self._keep([point])
            least, most = (least, middle) if point.kl <= kl else (middle + 1, most)
        self._keep([self._joint(found[least])])
        answer = least_bytes(self.points, kl)
        if answer is None:
            best = min(point.kl for point in self.points)
            raise UsageError(f"no recipe has a KL of at most {kl:g} nats; {best:.3g} is the least found")
        return answer

    def frontier(self) -> list[Point]:
        """All that was measured as a whole and is beaten by nothing else."""
        return undominated(self.points, self.objective)

    def _by_kl(self, budget: float) -> Iterable[Point]:
        fitting = [layers for layers in self._found() if self.size([c.shares for c in layers]) <= budget]
        for layers in fitting[-_CHECKED:]:
            yield self._joint(layers)
        fixed = entropy.largest(lambda active: self._size(of_active(active, FIXED_BANDS)), budget)
        if fixed > 0 and self.planes == 3:
            yield self._point("25/25/50", of_active(fixed, FIXED_BANDS))

    def _by_entropy(self, budget: float) -> Iterable[Point]:
        for name, shares in entropy.candidates(self._size, budget, self.levels):
            yield self._point(f"M2Cache's search, {name}", shares)

    def _found(self) -> list[list[Choice]]:
        if self._allocations is None:
            self._allocations = list(
                allocations([self._choices(layer) for layer in range(self.meter.layers)])
            )
        return self._allocations

    def _choices(self, layer: int) -> list[Choice]:
        """What one layer may be, with the others at their best."""
        best = UNIFORM[self.levels[0]]
        whole = [best] * self.meter.layers
        base = self.meter.point("best", whole).kl
        found = []
        for shares in options(self.planes):
            changed = [*whole[:layer], shares, *whole[layer + 1 :]]
            kl = self.meter.point(f"layer {layer}", changed).kl - base
            found.append(Choice(shares, kl, self.size(changed) - self.size(whole)))
        return found

    def _joint(self, layers: Sequence[Choice]) -> Point:
        return self.meter.point("tuned", [choice.shares for choice in layers])

    def _point(self, how: str, shares: Shares) -> Point:
        point = self.meter.point(how, [shares] * self.meter.layers)
        self._keep([point])
        return point

    def _keep(self, points: Iterable[Point]) -> None:
        """What was measured as a whole; the uniform levels and some allocations answer several budgets."""
        self.points += [point for point in points if point not in self.points]

    def _size(self, shares: Shares) -> float:
        return self.size([shares] * self.meter.layers)
