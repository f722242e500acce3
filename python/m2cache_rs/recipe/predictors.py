"""Low-rank predictors of a store, kept as `STORE/profiles/predictor-NAME.safetensors` by `m2cache profile`.

Tensors of layer N, f32 or f16: `layer.N.down` [r, hidden], `layer.N.up` [ffn, r], `layer.N.bias` [ffn] and
`layer.N.weight` [ffn]; r may differ by layer. Where up is [2 ffn, r] it has two outputs, one that foretells
the gate and, behind it, one that foretells up. The metadata hold `store` (its id), `kind` (how they were
found) and `bits` (4 or 8: at which the core keeps the factors).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture
from m2cache_rs.recipe.profiles import FOLDER
from m2cache_rs.recipe.tensors import Floats, TensorFile
from m2cache_rs.recipe.work import record_bytes

CODING = {"form": "symmetric", "group": 64}
"""How the core codes factors (src/select/coded.rs)."""
_BLOCK, _PAGE = 64, 4096
# A bias and a weight of each neuron, in f32.
_VECTORS = 8
_NAME = re.compile(r"predictor-(.+)\.safetensors")
_REMEDY = "`m2cache profile STORE --text FILE` makes it anew"
_MAKE = "`m2cache profile {} --text FILE` makes one"


@dataclass(frozen=True)
class Factors:
    """A layer's: down [r, hidden], up [ffn, r] or [2 ffn, r], bias [ffn], weight [ffn]."""

    down: Floats
    up: Floats
    bias: Floats
    weight: Floats


class Predictor:
    """A predictor's file, whose header was read and fits the model; factors are read layer by layer."""

    def __init__(self, store: Path, name: str, id: str, spec: Architecture) -> None:
        self.path = path_of(store, name)
        self.name = name
        self._file = TensorFile(self.path, "the predictor", id, _REMEDY)
        self.kind = str(self._file.about.get("kind", "unknown"))
        self.bits = self._bits()
        shapes = [self._shape(layer, spec) for layer in range(spec.layers)]
        self.ranks, self.outputs = tuple(rank for rank, _ in shapes), tuple(outputs for _, outputs in shapes)
        self._hidden, self._ffn = spec.hidden, spec.ffn

    def layers(self) -> Iterator[Factors]:
        """The factors of every layer in turn: memory for one. StoreIOError."""
        for layer in range(len(self.ranks)):
            yield Factors(*(self._file.read(f"layer.{layer}.{part}") for part in _PARTS))

    @property
    def digest(self) -> str:
        """The SHA-256 of the file, in hexadecimal: it tells one that was made anew. StoreIOError."""
        return self._file.digest

    def bytes(self) -> int:
        """What every decode token touches of it: records, biases and weights."""
        return sum(
            rank
            * sum(record_bytes(CODING, width, self.bits) for width in (self._hidden, outputs * self._ffn))
            + self._ffn * _VECTORS
            for rank, outputs in zip(self.ranks, self.outputs, strict=True)
        )

    def memory(self) -> int:
        """What the core keeps of it at most, once the factors of the last layer have been handed over."""
        kept = sum(
            rank * (_stride(self._hidden, self.bits) + _stride(outputs * self._ffn, self.bits))
            + self._ffn * _VECTORS
            + 2 * _PAGE
            for rank, outputs in zip(self.ranks, self.outputs, strict=True)
        )
        # Those of one layer exist in f32 while they are handed over.
        return kept + 4 * max(
            rank * (self._hidden + outputs * self._ffn)
            for rank, outputs in zip(self.ranks, self.outputs, strict=True)
        )

    def _bits(self) -> int:
        bits = self._file.about.get("bits")
        if bits not in ("4", "8"):
            raise self._file.broken(f"has bits {bits!r:.20}, not 4 or 8")
        return int(bits)

    def _shape(self, layer: int, spec: Architecture) -> tuple[int, int]:
        """Rank and outputs of a layer, all of whose tensors have their shapes."""
        down, up, *rest = (self._file.shape(f"layer.{layer}.{part}") for part in _PARTS)
        rank = down[0] if down else 0
        outputs = 2 if spec.gated and up == (2 * spec.ffn, rank) else 1
        wanted = [(rank, spec.hidden), (outputs * spec.ffn, rank), (spec.ffn,), (spec.ffn,)]
        if rank < 1 or [down, up, *rest] != wanted:
            raise self._file.broken(f"lacks factors of layer {layer} in the model's shape")
        return rank, outputs


_PARTS = ("down", "up", "bias", "weight")


def path_of(store: Path, name: str) -> Path:
    """The file of the predictor of that name."""
    return store / FOLDER / f"predictor-{name}.safetensors"


def names(store: Path) -> list[str]:
    """The predictors that a store has."""
    found = (_NAME.fullmatch(path.name) for path in (store / FOLDER).glob("predictor-*.safetensors"))
    return sorted(match[1] for match in found if match)


def find(store: Path, name: str | None, remedy: str = "") -> str:
    """The predictor of that name, or the only one. UsageError where there is none, or more than one.

    `remedy`: the way out where another one cannot be named.
    """
    there = names(store)
    if name is None and len(there) == 1:
        return there[0]
    if not there:
        raise UsageError(f"this recipe needs a predictor, and {store} has none; {_MAKE.format(store)}")
    if name is None or name not in there:
        asked = "several predictors are there" if name is None else f"there is no predictor {name!r}"
        named = f"name one of {', '.join(there)} (predictor; --predictor NAME)"
        raise UsageError(f"{asked} in {store}: {remedy or named}")
    return name


def _stride(width: int, bits: int) -> int:
    """A record in the core's memory: each of its planes begins at a multiple of 64 bytes."""
    base, rest = record_bytes(CODING, width, 4), record_bytes(CODING, width, bits)
    return -(-base // _BLOCK) * _BLOCK + -(-(rest - base) // _BLOCK) * _BLOCK
