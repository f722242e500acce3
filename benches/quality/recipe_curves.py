"""What the picture shows: which lines are a curve, in which bytes, and the straight lines between levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from metrics import Double
from recipe_rows import ALL_PARTS, ENTROPY_TUNED, FIXED, KL_TUNED, ORACLE, UNIFORM, Line


@dataclass(frozen=True)
class Curve:
    """A group's lines, of one kind of bands or of all, and how they are drawn."""

    group: str
    bands: str | None
    label: str
    colour: str
    style: str


CURVES = (
    Curve(UNIFORM, None, "FFN uniform at 4, 8, 16 bits", "tab:gray", "o"),
    Curve(ALL_PARTS, None, "all parts uniform at 4, 8 bits", "tab:gray", "P"),
    Curve(ORACLE, "16", "exact top-k at 16, if ranking were free", "black", "^:"),
    Curve("plane", "16", "plane, active at 16", "tab:blue", "s-"),
    Curve("plane", "25/25/50", "plane, bands 25/25/50", "tab:cyan", "s--"),
    Curve("lowrank (svd)", "16", "lowrank (SVD), active at 16", "tab:orange", "v-"),
    Curve("lowrank (trained)", "16", "lowrank (trained), active at 16", "tab:brown", "v--"),
    Curve("cascade", "16", "cascade, active at 16", "tab:purple", "D-"),
    Curve(KL_TUNED, None, "tuned by KL", "tab:red", "*-"),
    Curve(ENTROPY_TUNED, None, "tuned by entropy", "tab:pink", "x:"),
    Curve(FIXED, None, "25/25/50, as many as fit", "tab:olive", "+:"),
)
_STEPS = 50


def members(lines: Sequence[Line], curve: Curve) -> list[Line]:
    """By rising bytes. A group's name may go on behind a space: `cascade (svd)`."""
    found = [
        one
        for one in lines
        if (one.group == curve.group or one.group.startswith(f"{curve.group} ("))
        and curve.bands in (None, one.bands)
    ]
    return sorted(found, key=lambda one: one.shown[0])


def straight(uniform: Sequence[Line]) -> tuple[Double, Double]:
    """Bytes and KL along the lines between uniform levels by rising bytes, which a logarithm bends."""
    spans = [np.linspace(low.bytes, high.bytes, _STEPS) for low, high in pairwise(uniform)]
    x = np.concatenate(spans) if spans else np.empty(0)
    return x, np.interp(x, [one.bytes for one in uniform], [one.kl for one in uniform]) if spans else x


def least(lines: Sequence[Line]) -> float:
    """Where a logarithm shows what has no loss: below all that has one."""
    return min((one.kl for one in lines if one.kl > 0), default=1e-9) / 2
