"""What the table must show, each with its figures (all are bootstrapped in pairs on the same text)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from m2cache_rs.eval.bootstrap import weighted_interval
from recipe_rows import ENTROPY_TUNED, FIXED, KL_TUNED, ORACLE, UNIFORM, Line, Table

# `plane` beside exact top-k: perplexity, at these shares.
MARGIN = 1.01
NEAR = (0.7, 0.5, 0.35)

TOP_K = "plane within 1 % of the perplexity of exact top-k at 70, 50 and 35 %"
LINES = "tuned by KL: on or below the straight lines between uniform 4, 8 and 16"
LOGARITHMS = "(a harder one) tuned by KL: on or below the line between the logarithms of uniform 4 and 8"
AGAINST = {
    ENTROPY_TUNED: "tuned by KL: no worse than by entropy at equal bytes",
    FIXED: "tuned by KL: no worse than 25/25/50 at equal bytes",
}


@dataclass(frozen=True)
class Check:
    """A comparison that holds or does not: `value` is a ratio, or a difference of KL in nats a token with its
    paired bootstrap 95 % `interval`. `clear`: the interval is all on the side that holds."""

    rule: str
    subject: str
    where: str
    holds: bool
    value: float
    interval: tuple[float, float] | None = None

    @property
    def clear(self) -> bool:
        """Whether it holds for every value of the interval."""
        return self.holds and (self.interval is None or self.interval[1] <= 0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "clear": self.clear}


def all_of(table: Table) -> list[Check]:
    """All checks of all subjects."""
    counts = np.asarray(table.about["counts"], np.float64)
    found: list[Check] = []
    for subject in table.subjects:
        found += _top_k(table, subject)
        found += _below_lines(table, subject, counts)
        for group, rule in AGAINST.items():
            found += _against(table, subject, group, rule, counts)
    return found


def _top_k(table: Table, subject: str) -> Iterator[Check]:
    exact = {one.label: one for one in table.find(subject=subject, group=ORACLE)}
    for line in table.find(subject=subject, group="plane"):
        if line.share in NEAR and line.label in exact:
            ratio = line.perplexity / exact[line.label].perplexity
            yield Check(TOP_K, subject, line.label, ratio <= MARGIN, ratio)


def _below_lines(table: Table, subject: str, counts: np.ndarray) -> Iterator[Check]:
    uniform = sorted(table.find(subject=subject, group=UNIFORM), key=lambda one: one.bytes)
    for line in table.find(subject=subject, group=KL_TUNED):
        over = line_at(uniform, line.bytes)
        if over is not None:
            yield _difference(LINES, line, over, counts, strictly=True)
        if line.bytes <= uniform[1].bytes + 1:
            ratio = line.kl / _geometric(uniform[0], uniform[1], line.bytes)
            yield Check(LOGARITHMS, subject, line.label, ratio <= 1, ratio)


def _geometric(low: Line, high: Line, size: float) -> float:
    part = (size - low.bytes) / (high.bytes - low.bytes)
    return float(low.kl ** (1 - part) * high.kl**part)


def line_at(uniform: Sequence[Line], size: float) -> np.ndarray | None:
    """What the straight line between uniform levels (by rising bytes) gives in blocks of nats at `size`."""
    for low, high in pairwise(uniform):
        if low.bytes - 1 <= size <= high.bytes + 1:
            part = (size - low.bytes) / (high.bytes - low.bytes)
            return np.asarray((1 - part) * low.nats + part * high.nats)
    return None


def _against(table: Table, subject: str, group: str, rule: str, counts: np.ndarray) -> Iterator[Check]:
    others = {one.label: one for one in table.find(subject=subject, group=group)}
    for line in table.find(subject=subject, group=KL_TUNED):
        if line.label in others:
            yield _difference(rule, line, others[line.label].nats, counts, strictly=False)


def _difference(rule: str, line: Line, other: np.ndarray, counts: np.ndarray, strictly: bool) -> Check:
    """Holds where the mean is not above 0; where not `strictly`, where the interval reaches 0."""
    difference = line.nats - other
    value = float(difference.sum() / counts.sum())
    low, high = weighted_interval(difference, counts)
    holds = value <= _LEAST or (not strictly and low <= 0)
    return Check(rule, line.subject, line.label, holds, value, (low, high))


# Blocks are kept with five digits: a recipe that is the uniform level itself differs by no more.
_LEAST = 1e-9


def counted(checks: Sequence[Check]) -> dict[str, tuple[int, int, int]]:
    """By rule: how many hold, hold clearly, and are there."""
    rules = dict.fromkeys(one.rule for one in checks)
    return {rule: _count([one for one in checks if one.rule == rule]) for rule in rules}


def _count(checks: Sequence[Check]) -> tuple[int, int, int]:
    return sum(one.holds for one in checks), sum(one.clear for one in checks), len(checks)
