"""What a predictor costs, and the rank that is worth it."""

from __future__ import annotations

from m2cache_rs.models import Architecture

BITS = 8
"""At which the core keeps factors."""
SHARE = 0.06
"""Of the FFN's bytes at 4 bits, that a predictor should take at most (docs/design.md, 5: 3 to 6 %)."""
_BLOCK, _SCALES = 64, 4


def predictor_bytes(arch: Architecture, rank: int, bits: int = BITS) -> int:
    """Bytes of a layer's factors, coded in groups of 64 with two scales, bias and weight in f32."""
    return rank * _record(arch.hidden, bits) + arch.ffn * (_record(rank, bits) + 8)


def predictor_share(arch: Architecture, rank: int, bits: int = BITS) -> float:
    """The same as a share of the layer's FFN at 4 bits."""
    return predictor_bytes(arch, rank, bits) / (len(arch.ffn_matrices) * arch.ffn * _record(arch.hidden, 4))


def default_rank(arch: Architecture) -> int:
    """The highest multiple of 64 within `SHARE`, at least 64, and no more than the matrix has.

    64, since a shorter record is padded to that: what lies below costs as much.
    """
    rank = _BLOCK
    while predictor_share(arch, rank + _BLOCK) <= SHARE:
        rank += _BLOCK
    return min(rank, arch.hidden, arch.ffn)


def _record(width: int, bits: int) -> int:
    return -(-width // _BLOCK) * (_BLOCK * bits // 8 + _SCALES)
