"""What a predictor costs, and the rank that is worth it."""

from __future__ import annotations

from m2cache_rs.models import Architecture
from m2cache_rs.predict.activation import OFF
from m2cache_rs.recipe.predictors import CODING
from m2cache_rs.recipe.work import record_bytes

BITS = 4
"""At which the core keeps factors: twice the rank at 4 bits finds more than the rank at 8, for as many bytes
(NOTES, profile: 84 % of the top half instead of 77)."""
SHARE = 0.06
"""Of the FFN's bytes at 4 bits, that a predictor should take at most (docs/design.md, 5: 3 to 6 %)."""
_STEP = 64
_VECTORS = 8  # bias and weight of a neuron in f32


def outputs(arch: Architecture) -> int:
    """2 where up decides as much as the gate: with one that is never quite off. Else 1.

    The exact gate of tale-silu alone ranks 70 % of the top half right, two outputs of rank 64 86 %; where the
    gate is off for most neurons (ReLU) it says enough, and one head of twice the rank finds more.
    """
    return 2 if arch.gated and arch.activation not in OFF else 1


def predictor_bytes(arch: Architecture, rank: int) -> int:
    """Bytes of a layer's factors, as the core codes them."""
    widths = arch.hidden, outputs(arch) * arch.ffn
    return rank * sum(record_bytes(CODING, width, BITS) for width in widths) + arch.ffn * _VECTORS


def predictor_share(arch: Architecture, rank: int) -> float:
    """The same as a share of the layer's FFN at 4 bits, in the default encoding."""
    plane = record_bytes({"form": "affine", "group": 64}, arch.hidden, 4)
    return predictor_bytes(arch, rank) / (len(arch.ffn_matrices) * arch.ffn * plane)


def default_rank(arch: Architecture) -> int:
    """The highest multiple of 64 within `SHARE`, at least 64, and no more than the matrix has.

    64 of a toy's few hundred dimensions cost more than `SHARE`; fewer foretell too little to be of use.
    """
    rank = _STEP
    while predictor_share(arch, rank + _STEP) <= SHARE:
        rank += _STEP
    return min(rank, arch.hidden, arch.ffn)
