"""Cutting matrices into tiles of records that fit a budget, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from m2cache_rs.convert.checkpoint import Part
from m2cache_rs.convert.source import Weights, widen

BUDGET = 64 << 20
"""Source bytes of a tile: with its coded twin and the read buffers far below 1 GiB."""

ALIGN = 64
"""Tiles begin and end at multiples of this: records under one checksum are written together."""


@dataclass(frozen=True)
class Tile:
    """Records `first..` of matrices that share them, records as rows, all of one dtype."""

    first: int
    dtype: str
    matrices: dict[str, Weights]

    @property
    def bytes(self) -> int:
        """Size of the arrays."""
        return sum(matrix.nbytes for matrix in self.matrices.values())


def tiles(parts: Mapping[str, Part], records: int, budget: int = BUDGET) -> Iterator[Tile]:
    """The tiles of matrices that share `records` records. Matrices of different dtypes are widened to F32."""
    dtypes = {part.tensor.dtype for part in parts.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else "F32"
    fitting = budget // sum(part.record_bytes for part in parts.values())
    step = max(fitting // ALIGN * ALIGN, ALIGN)
    for first in range(0, records, step):
        last = min(first + step, records)
        yield Tile(first, dtype, {name: _read(part, first, last, dtype) for name, part in parts.items()})


def _read(part: Part, first: int, last: int, dtype: str) -> Weights:
    tensor = part.tensor
    values = tensor.columns(first, last) if part.columns else tensor.rows(first, last)
    return values if tensor.dtype == dtype else widen(values, tensor.dtype)
