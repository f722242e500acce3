"""Recipes that were measured, and which of them answers a question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from m2cache_rs.tune.layers import Shares


@dataclass(frozen=True)
class Point:
    """A recipe of the FFN by layer, and what it was measured to cost.

    `kl`: mean nats a token to the store at its best, `interval` its bootstrap 95 % (None of
    too short a text); `entropy`: mean nats of its own predictions;
    `bytes`: of weights a token touches, `bits`: of an FFN weight. `how`: what found it.
    """

    how: str
    shares: tuple[Shares, ...]
    kl: float
    interval: tuple[float, float] | None
    entropy: float
    perplexity: float
    bytes: float
    bits: float

    def objective(self, name: str) -> float:
        """What is made small: "kl" or "entropy"."""
        return self.kl if name == "kl" else self.entropy


def undominated(points: Iterable[Point], objective: str = "kl") -> list[Point]:
    """By rising bytes, those that no other beats at as few bytes."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes, p.objective(objective))):
        if not kept or point.objective(objective) < kept[-1].objective(objective):
            kept.append(point)
    return kept


def best_within(points: Sequence[Point], limit: float, objective: str = "kl") -> Point | None:
    """The best that touches at most `limit` bytes a token."""
    return min(
        (p for p in points if p.bytes <= limit), key=lambda p: (p.objective(objective), p.bytes), default=None
    )


def least_bytes(points: Sequence[Point], kl: float) -> Point | None:
    """The fewest bytes at a KL of at most `kl`."""
    return min((p for p in points if p.kl <= kl), key=lambda p: (p.bytes, p.kl), default=None)
