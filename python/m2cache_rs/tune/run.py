"""`m2cache tune`: measures, searches, checks what was found together, and says which recipe answers."""

from __future__ import annotations

import math
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
# What is counted is the quotient of two sums: a budget that it fills is not lost to that.
_ROUNDING = 1e-9


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
        self._whole: dict[tuple[Shares, ...], Point] = {}
        self._allocations: list[list[Choice]] | None = None

    @property
    def levels(self) -> tuple[int, ...]:
        """Stored levels, finest first."""
        return tuple(bits for bits, shares in UNIFORM.items() if shares in options(self.planes))

    @property
    def least(self) -> float:
        """Bytes a token of the smallest recipe that can be found, from the layout alone."""
        ratios = [bands for _, bands in entropy.ratios(self.levels)] if self.objective == "entropy" else []
        smallest = [*ratios, *([FIXED_BANDS] if self._has_fixed else [])]
        found = [of_active(entropy.SMALLEST, bands) for bands in smallest]
        found += options(self.planes) if self.objective == "kl" else []
        ranked = [self._size(shares) + self.ranking for shares in found]
        return min([self._size(UNIFORM[bits]) for bits in self.levels] + ranked)

    @property
    def _has_fixed(self) -> bool:
        """Whether M2Cache's fixed bands are among the candidates."""
        return self.objective == "kl" and self.planes == 3

    def uniform(self) -> dict[int, Point]:
        """The uniform levels: members of every search, so that none of them beats what it finds."""
        return {bits: self._alike(f"uniform {bits}", UNIFORM[bits]) for bits in self.levels}

    def steps(self, budgets: int) -> int:
        """Recipes that are measured at most, for so many budgets."""
        single = self.meter.layers * len(options(self.planes)) if self.objective == "kl" else 0
        each = _CHECKED + 1 if self.objective == "kl" else len(entropy.PAIRS) * (entropy.STEPS + 1)
        return len(self.levels) + single + budgets * each

    def within(self, budget: float) -> Point:
        """The best recipe of at most `budget` bytes a token, whatever else was asked for before.

        UsageError names the least there is, before anything is measured.
        """
        found = None
        if budget >= self.least:
            room = budget - self.ranking
            candidates = self._by_kl(room) if self.objective == "kl" else self._by_entropy(room)
            points = [*self.uniform().values(), *candidates]
            found = best_within(points, budget * (1 + _ROUNDING), self.objective)
        if found is None:
            raise UsageError(
                f"no recipe touches as few as {budget:.0f} bytes a token; {math.ceil(self.least)} is the "
                "least"
            )
        return found

    def at_most(self, kl: float) -> Point:
        """The fewest bytes whose measured KL is at most `kl`: budgets are halved until they are close."""
        points, found = list(self.uniform().values()), self._found()
        least, most = 0, len(found) - 1
        while least < most:
            middle = (least + most) // 2
            point = self._joint(found[middle])
            points.append(point)
            least, most = (least, middle) if point.kl <= kl else (middle + 1, most)
        points.append(self._joint(found[least]))
        answer = least_bytes(points, kl)
        if answer is None:
            best = min(point.kl for point in points)
            raise UsageError(f"no recipe has a KL of at most {kl:g} nats; {best:.3g} is the least found")
        return answer

    def frontier(self) -> list[Point]:
        """All that was measured as a whole and is beaten by nothing else."""
        return undominated(self._whole.values(), self.objective)

    def _by_kl(self, budget: float) -> Iterable[Point]:
        fitting = [layers for layers in self._found() if self.size([c.shares for c in layers]) <= budget]
        for layers in fitting[-_CHECKED:]:
            yield self._joint(layers)
        fixed = entropy.largest(lambda active: self._size(of_active(active, FIXED_BANDS)), budget)
        if fixed > 0 and self._has_fixed:
            yield self._alike("25/25/50", of_active(fixed, FIXED_BANDS))

    def _by_entropy(self, budget: float) -> Iterable[Point]:
        for name, shares in entropy.candidates(self._size, budget, self.levels):
            yield self._alike(f"M2Cache's search, {name}", shares)

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
        return self._point("tuned", [choice.shares for choice in layers])

    def _alike(self, how: str, shares: Shares) -> Point:
        return self._point(how, [shares] * self.meter.layers)

    def _point(self, how: str, shares: Sequence[Shares]) -> Point:
        """Measured as a whole, and shown by `frontier`."""
        point = self.meter.point(how, shares)
        return self._whole.setdefault(point.shares, point)

    def _size(self, shares: Shares) -> float:
        return self.size([shares] * self.meter.layers)
