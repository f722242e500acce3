"""What a decode token's FFN is computed from, in stored bytes by level: dots (gate, up), sums (down).

Records that a selector has scanned at 4 bits and that are computed again at 8 or 16 count twice: once for
each kernel that goes through them. What a token touches counts them once (`Weights`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m2cache_rs.models import Architecture
from m2cache_rs.recipe.cut import BAND_LEVELS, Above, Cut, rounded
from m2cache_rs.recipe.recipe import Recipe, Sparse, one_or_each

_BLOCK = 64
_SCANS = {"plane": 4, "cascade": 4, "oracle": 16}


@dataclass(frozen=True)
class Work:
    """Bytes by level, of all layers together."""

    dots: Mapping[int, int]
    sums: Mapping[int, int]

    @classmethod
    def of(cls, spec: Architecture, encoding: Mapping[str, Any], recipe: Recipe) -> Work:
        """Of a recipe; where thresholds choose, and in `certified`, the most that there can be.

        A predictor's own dots are not among them.
        """
        dots: Counter[int] = Counter()
        sums: Counter[int] = Counter()
        for layer in range(spec.layers):
            computed, added = _counts(recipe, layer, spec)
            for bits in BAND_LEVELS:
                record = record_bytes(encoding["coding"], spec.hidden, bits)
                dots[bits] += computed[bits] * record * (len(spec.ffn_matrices) - 1)
                sums[bits] += added[bits] * record
        return cls(+dots, +sums)

    def with_dots(self, bits: int, size: int) -> Work:
        """The same and dots of so many bytes at a level."""
        return Work(Counter(self.dots) + Counter({bits: size}), self.sums)


def record_bytes(coding: Mapping[str, Any], width: int, bits: int) -> int:
    """A record of one matrix at a level, its scales included (docs/format.md, 3)."""
    blocks = -(-width // _BLOCK)
    scales = blocks * (_BLOCK // int(coding["group"])) * (2 if coding["form"] == "symmetric" else 4)
    return blocks * _BLOCK * bits // 8 + scales


def _counts(recipe: Recipe, layer: int, spec: Architecture) -> tuple[Counter[int], Counter[int]]:
    """Neurons by level whose gate and up are computed, and whose down is added."""
    ffn = recipe.ffn
    if not isinstance(ffn, Sparse):
        return Counter({ffn.bits: spec.ffn}), Counter({ffn.bits: spec.ffn})
    added = Counter(dict(zip(BAND_LEVELS, _most(one_or_each(ffn.layers, layer), spec.ffn), strict=True)))
    scanned = _SCANS.get(ffn.paid)
    computed = Counter({bits: count for bits, count in added.items() if bits != scanned})
    if scanned is not None:
        computed[scanned] = (
            rounded(one_or_each(ffn.candidates, layer), spec.ffn) if ffn.candidates else spec.ffn
        )
    return computed, added


def _most(cut: Cut, neurons: int) -> tuple[int, int, int]:
    """Neurons at 16, 8 and 4 bits, at most: all that thresholds let through at the finest level."""
    if not isinstance(cut, Above):
        return cut.counts(neurons)
    most, finest = rounded(cut.most, neurons), cut.bits
    return most * (finest == 16), most * (finest == 8), most * (finest == 4)
