"""What chooses query heads: `STORE/profiles/query-heads.safetensors`, by `m2cache profile --query-heads`.

Tensors of layer N, f32 or f16: `layer.N.weight` [heads, hidden] and `layer.N.bias` [heads]; a head's score is
weight . x + bias of the normed row x. The metadata hold `store`, the store's id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture
from m2cache_rs.recipe.profiles import FOLDER
from m2cache_rs.recipe.tensors import Floats, TensorFile

_FILE = "query-heads.safetensors"
_MAKE = "`m2cache profile {} --text FILE --query-heads` makes it"
_REMEDY = "`m2cache profile STORE --text FILE --query-heads` makes it anew"
# A plane begins at a multiple of 64 bytes, and a page is lost at the end.
_BLOCK, _PAGE = 64, 4096


@dataclass(frozen=True)
class HeadWeights:
    """A layer's: weight [heads, hidden], bias [heads]."""

    weight: Floats
    bias: Floats


class HeadPredictor:
    """The file, whose header was read and fits the model.

    UsageError where there is none, StoreError where it is broken or another store's, StoreIOError.
    """

    def __init__(self, store: Path, id: str, spec: Architecture) -> None:
        self.path, self._spec = path_of(store), spec
        if not self.path.exists():
            raise UsageError(
                f"the recipe leaves out query heads, and nothing was learned of those of {store}: "
                f"{_MAKE.format(store)}"
            )
        self._file = TensorFile(self.path, "the file of query heads", id, _REMEDY)
        for layer in range(spec.layers):
            self._check(layer)

    def layers(self) -> Iterator[HeadWeights]:
        """Those of every layer in turn. StoreIOError."""
        for layer in range(self._spec.layers):
            yield HeadWeights(*(self._file.read(f"layer.{layer}.{part}") for part in ("weight", "bias")))

    @property
    def digest(self) -> str:
        """The SHA-256 of the file, in hexadecimal: it tells one that was made anew. StoreIOError."""
        return self._file.digest

    def memory(self) -> int:
        """What the core keeps of it at most, at 8 bits, and a layer that is being handed over."""
        spec = self._spec
        codes = -(-spec.hidden // _BLOCK) * _BLOCK
        scales = -(-codes // 32 // _BLOCK) * _BLOCK
        kept = spec.layers * (spec.heads * (codes + scales + _BLOCK + 4) + 2 * _PAGE)
        return kept + 4 * spec.heads * spec.hidden

    def _check(self, layer: int) -> None:
        shapes = {"weight": (self._spec.heads, self._spec.hidden), "bias": (self._spec.heads,)}
        for part, shape in shapes.items():
            if self._file.shape(f"layer.{layer}.{part}") != shape:
                raise self._file.broken(f"lacks heads of layer {layer} in the model's shape")


def path_of(store: Path) -> Path:
    """The file of a store."""
    return store / FOLDER / _FILE
