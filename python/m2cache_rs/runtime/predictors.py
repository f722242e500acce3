"""Low-rank predictors of a store, kept as `STORE/profiles/predictor-NAME.safetensors` by `m2cache profile`.

Tensors of layer N, f32 or f16: `layer.N.down` [r, hidden], `layer.N.up` [ffn, r], `layer.N.bias` [ffn] and
`layer.N.weight` [ffn]; r may differ by layer. Where up is [2 ffn, r] it has two heads, one that foretells the
gate and, behind it, one that foretells up. The metadata hold `store` (its id), `kind` (how they were
found) and `bits` (4 or 8: at which the core keeps the factors).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2cache_rs._core import read_header
from m2cache_rs.errors import M2CacheError, StoreError, UsageError
from m2cache_rs.models import Architecture
from m2cache_rs.runtime.profiles import FOLDER, check_store, io_error
from m2cache_rs.runtime.work import record_bytes

CODING = {"form": "symmetric", "group": 64}
"""How the core codes factors (src/select/coded.rs)."""
_BLOCK, _PAGE = 64, 4096
# A bias and a weight of each neuron, in f32.
_VECTORS = 8
_NAME = re.compile(r"predictor-(.+)\.safetensors")
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
_REMEDY = "`m2cache profile STORE --text FILE` makes it anew"
_MAKE = "`m2cache profile {} --text FILE` makes one"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int


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
        try:
            header = read_header(self.path)
            about = metadata(self.path)
        except OSError as error:
            raise io_error(f"the predictor {self.path} cannot be read", error) from error
        except M2CacheError as error:
            raise StoreError(f"the predictor {self.path} is broken: {error}; {_REMEDY}") from error
        check_store(self.path, about.get("store"), id, _REMEDY)
        self.kind = str(about.get("kind", "unknown"))
        self.bits = self._bits(about)
        self._tensors = {
            tensor: Tensor(_DTYPES[dtype], tuple(shape), begin)
            for tensor, dtype, shape, begin, _ in header
            if dtype in _DTYPES
        }
        self.ranks = tuple(self._rank(layer, spec) for layer in range(spec.layers))
        ups = (self._tensors[f"layer.{layer}.up"] for layer in range(spec.layers))
        self.heads = tuple(up.shape[0] // spec.ffn for up in ups)
        self._hidden, self._ffn = spec.hidden, spec.ffn

    def layers(self) -> Iterator[Factors]:
        """The factors of every layer in turn: memory for one. StoreIOError."""
        for layer in range(len(self.ranks)):
            parts = (self._read(self._tensors[f"layer.{layer}.{part}"]) for part in _PARTS)
            yield Factors(*parts)

    def bytes(self) -> int:
        """What every decode token touches of it: records, biases and weights."""
        return sum(
            rank * sum(record_bytes(CODING, width, self.bits) for width in (self._hidden, heads * self._ffn))
            + self._ffn * _VECTORS
            for rank, heads in zip(self.ranks, self.heads, strict=True)
        )

    def memory(self) -> int:
        """What the core keeps of it at most, once the factors of the last layer have been handed over."""
        kept = sum(
            rank * (_stride(self._hidden, self.bits) + _stride(heads * self._ffn, self.bits))
            + self._ffn * _VECTORS
            + 2 * _PAGE
            for rank, heads in zip(self.ranks, self.heads, strict=True)
        )
        # Those of one layer exist in f32 while they are handed over.
        return kept + 4 * max(
            rank * (self._hidden + heads * self._ffn)
            for rank, heads in zip(self.ranks, self.heads, strict=True)
        )

    def _bits(self, about: dict[str, Any]) -> int:
        if about.get("bits") not in ("4", "8"):
            raise StoreError(f"{self.path} has bits {about.get('bits')!r:.20}, not 4 or 8; {_REMEDY}")
        return int(about["bits"])

    def _rank(self, layer: int, spec: Architecture) -> int:
        """The rank of a layer, all of whose tensors have their shapes."""
        found = [self._tensors.get(f"layer.{layer}.{part}") for part in _PARTS]
        down = found[0]
        rank = down.shape[0] if down is not None and len(down.shape) == 2 else 0
        heads = 2 if spec.gated and found[1] is not None and found[1].shape == (2 * spec.ffn, rank) else 1
        shapes = (rank, spec.hidden), (heads * spec.ffn, rank), (spec.ffn,), (spec.ffn,)
        if rank < 1 or any(
            one is None or one.shape != shape for one, shape in zip(found, shapes, strict=True)
        ):
            raise StoreError(
                f"the predictor {self.path} lacks factors of layer {layer} in the model's shape; {_REMEDY}"
            )
        return rank

    def _read(self, tensor: Tensor) -> Floats:
        count = int(np.prod(tensor.shape))
        try:
            found = np.fromfile(self.path, tensor.dtype, count, offset=tensor.begin)
        except OSError as error:
            raise io_error(f"the predictor {self.path} cannot be read", error) from error
        return np.ascontiguousarray(found.reshape(tensor.shape), np.float32)


_PARTS = ("down", "up", "bias", "weight")


def path_of(store: Path, name: str) -> Path:
    """The file of the predictor of that name."""
    return store / FOLDER / f"predictor-{name}.safetensors"


def names(store: Path) -> list[str]:
    """The predictors that a store has."""
    found = (_NAME.fullmatch(path.name) for path in (store / FOLDER).glob("predictor-*.safetensors"))
    return sorted(match[1] for match in found if match)


def find(store: Path, name: str | None) -> str:
    """The predictor of that name, or the only one. UsageError where there is none, or more than one."""
    there = names(store)
    if name is None and len(there) == 1:
        return there[0]
    if not there:
        raise UsageError(f"this recipe needs a predictor, and {store} has none; {_MAKE.format(store)}")
    if name is None or name not in there:
        asked = "several predictors are there" if name is None else f"there is no predictor {name!r}"
        raise UsageError(f"{asked} in {store}: name one of {', '.join(there)} (--predictor NAME)")
    return name


def _stride(width: int, bits: int) -> int:
    """A record in the core's memory: each of its planes begins at a multiple of 64 bytes."""
    base, rest = record_bytes(CODING, width, 4), record_bytes(CODING, width, bits)
    return -(-base // _BLOCK) * _BLOCK + -(-(rest - base) // _BLOCK) * _BLOCK


def metadata(path: Path) -> dict[str, Any]:
    """What a file whose header is sound says of itself."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        found = json.loads(file.read(length)).get("__metadata__", {})
    return dict(found)
