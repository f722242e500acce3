"""Where a layer's ranking of neurons is cut: by shares, or by thresholds. Arrays are by level: 16, 8, 4."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from m2cache_rs.errors import UsageError

# In the order of bands; `config.LEVELS` are those of a weight, as they rise.
BAND_LEVELS = (16, 8, 4)
# Shares that are written with three digits add up to no less and no more.
_SLACK = 2e-3
# Scores are f32.
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Shares:
    """A share of the neurons is active, and shares of them have 16, 8 and 4 bits."""

    active: float
    bands: tuple[float, float, float]

    @property
    def bits(self) -> int:
        """The finest level."""
        return _finest([band > 0 for band in self.bands])

    def counts(self, neurons: int) -> tuple[int, int, int]:
        """Neurons at 16, 8 and 4 bits: the nearest counts (see `Recipe.core`)."""
        active, total = rounded(self.active, neurons), sum(self.bands)
        ends = [math.floor(active * end / total + 0.5) for end in accumulate(self.bands)]
        return ends[0], ends[1] - ends[0], ends[2] - ends[1]

    def core(self, neurons: int) -> dict[str, Any]:
        """The core's JSON."""
        return {"top": list(self.counts(neurons))}

    def to_dict(self) -> dict[str, Any]:
        """Its JSON."""
        return {"active": self.active, "bands": list(self.bands)}


@dataclass(frozen=True)
class Above:
    """What reaches a threshold has the finest level whose it reaches; `most` is a share of the neurons."""

    scores: tuple[float | None, float | None, float | None]
    most: float

    @property
    def bits(self) -> int:
        """The finest level."""
        return _finest([score is not None for score in self.scores])

    def core(self, neurons: int) -> dict[str, Any]:
        """The core's JSON."""
        return {"above": {"scores": list(self.scores), "most": rounded(self.most, neurons)}}

    def to_dict(self) -> dict[str, Any]:
        """Its JSON."""
        return {"above": {"scores": list(self.scores), "most": self.most}}


Cut = Shares | Above


def rounded(share: float, neurons: int) -> int:
    """The nearest count to a share of neurons, halves upwards, at least 1."""
    return max(1, math.floor(share * neurons + 0.5))


def one_level(bits: int) -> tuple[float, float, float]:
    """Bands of one level."""
    return {16: (1.0, 0.0, 0.0), 8: (0.0, 1.0, 0.0), 4: (0.0, 0.0, 1.0)}[bits]


def parse_cut(value: Any, where: str) -> Cut:
    """From its JSON. UsageError says what is wrong, and where."""
    if isinstance(value, Mapping) and set(value) == {"active", "bands"}:
        return Shares(
            share(value["active"], f"{where}.active"), parse_bands(value["bands"], f"{where}.bands")
        )
    above = value.get("above") if isinstance(value, Mapping) and set(value) == {"above"} else None
    if isinstance(above, Mapping) and set(above) == {"scores", "most"}:
        return Above(_thresholds(above["scores"], where), share(above["most"], f"{where}.above.most"))
    raise UsageError(
        f"{where} is {value!r:.60}; it must have active and bands, or above with scores and most"
    )


def parse_bands(value: Any, where: str = "bands") -> tuple[float, float, float]:
    """Shares of the active neurons at 16, 8 and 4 bits: "25/25/50", or three numbers that sum to 1 or 100."""
    given = value.split("/") if isinstance(value, str) else value
    if not isinstance(given, Sequence) or len(given) != 3:
        raise UsageError(f"{where} is {value!r:.60}; three shares are needed, at 16/8/4 bits: 25/25/50")
    found = [number(one, where) for one in given]
    total = 100.0 if sum(found) > 2 else 1.0
    if min(found) < 0 or not abs(sum(found) / total - 1) <= _SLACK:
        raise UsageError(f"{where} is {value!r:.60}; shares at 16/8/4 bits sum to 100 (or to 1): 25/25/50")
    first, second, third = (one / total for one in found)
    return first, second, third


def share(value: Any, where: str) -> float:
    """A share of neurons: above 0 and at most 1."""
    found = number(value, where)
    if not 0 < found <= 1:
        raise UsageError(f"{where} is {value!r:.60}; a share is above 0 and at most 1: 0.5 for half")
    return found


def number(value: Any, where: str) -> float:
    """A finite number, or its text."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise UsageError(f"{where} is {value!r:.60}; a number is needed")
    return found


def _thresholds(value: Any, where: str) -> tuple[float | None, float | None, float | None]:
    name = f"{where}.above.scores"
    if not isinstance(value, list) or len(value) != 3:
        raise UsageError(f"{name} is {value!r:.60}; three thresholds are needed, at 16, 8, 4 bits (or null)")
    first, second, third = (None if one is None else _score(one, name) for one in value)
    used = [one for one in (first, second, third) if one is not None]
    if not used or used != sorted(used, reverse=True):
        raise UsageError(f"{name} is {value!r:.60}; thresholds rise with the level, and one is needed")
    return first, second, third


def _score(value: Any, where: str) -> float:
    found = number(value, where)
    if abs(found) > LARGEST:
        raise UsageError(f"{where} is {value!r:.60}; scores are f32, up to {LARGEST:.3g}")
    return found


def _finest(used: list[bool]) -> int:
    return next(level for level, one in zip(BAND_LEVELS, used, strict=True) if one)
