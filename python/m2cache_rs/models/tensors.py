"""Where a matrix or vector of ours lies in a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint: its name and shape there, and whether our records are its columns.

    Every record runs along the model dimension (docs/design.md, 4): a row of most matrices, a column of o
    and down.
    """

    name: str
    shape: tuple[int, ...]
    columns: bool = False
