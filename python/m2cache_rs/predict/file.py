"""Writing a predictor's file (`recipe/predictors`): layer by layer, in memory for one layer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from m2cache_rs.models import Architecture
from m2cache_rs.predict.rank import BITS, outputs
from m2cache_rs.recipe.neurons import SHARES
from m2cache_rs.recipe.predictors import Factors, path_of
from m2cache_rs.recipe.profiles import write

_DTYPES = {"down": ("F16", "<f2"), "up": ("F16", "<f2"), "bias": ("F32", "<f4"), "weight": ("F32", "<f4")}


@dataclass(frozen=True)
class About:
    """What a predictor's file says of itself; `text` is the sha256 of what it was made on."""

    store: str
    kind: str
    rank: int
    text: str
    tokens: int


class Tensors:
    """The layout of a predictor's file."""

    def __init__(self, arch: Architecture, about: About) -> None:
        self._arch, self._about = arch, about
        rank, neurons = about.rank, arch.ffn
        self._shapes = {
            "down": (rank, arch.hidden),
            "up": (outputs(arch) * neurons, rank),
            "bias": (neurons,),
            "weight": (neurons,),
        }

    def header(self, recall: Sequence[float]) -> bytes:
        """As long whatever the recall is, so that it can be written last."""
        about = {name: str(value) for name, value in vars(self._about).items()}
        text = json.dumps({str(share): f"{one:.4f}" for share, one in zip(SHARES, recall, strict=True)})
        entries: dict[str, Any] = {"__metadata__": {**about, "bits": str(BITS), "recall": text}}
        at = 0
        for layer in range(self._arch.layers):
            for part, shape in self._shapes.items():
                dtype, code = _DTYPES[part]
                end = at + int(np.prod(shape)) * np.dtype(code).itemsize
                entry = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
                entries[f"layer.{layer}.{part}"], at = entry, end
        content = json.dumps(entries, separators=(",", ":")).encode()
        content += b" " * (-len(content) % 8)
        return len(content).to_bytes(8, "little") + content

    def layer(self, factors: Factors) -> Iterator[bytes]:
        """A layer's bytes."""
        for part, (_, code) in _DTYPES.items():
            values = getattr(factors, part)
            if code == "<f2":
                values = values.clip(-65504, 65504)
            yield np.ascontiguousarray(values, code).tobytes()


def save(
    store: Path,
    arch: Architecture,
    about: About,
    layers: Iterator[tuple[Factors, Sequence[float]]],
) -> tuple[Path, tuple[float, ...]]:
    """Writes factors as they come, each with its recall by `SHARES`; where, and their mean recall.

    StoreIOError where that cannot be; whatever is raised, nothing half-written stays.
    """
    tensors, recalls = Tensors(arch, about), []

    def fill(file: IO[bytes]) -> None:
        file.write(tensors.header([0.0] * len(SHARES)))
        for factors, recall in layers:
            for part in tensors.layer(balanced(factors)):
                file.write(part)
            recalls.append(recall)
        file.seek(0)
        file.write(tensors.header(mean(recalls)))

    return write(path_of(store, about.kind), fill, about.store), mean(recalls)


def balanced(factors: Factors) -> Factors:
    """The same product with rows of down as long as columns of up: neither leaves the range of f16."""
    down = np.linalg.norm(factors.down.astype(np.float64), axis=1)
    up = np.linalg.norm(factors.up.astype(np.float64), axis=0)
    used = (up > 0) & (down > 0)
    scale = np.sqrt(np.divide(up, down, out=np.ones_like(up), where=used))
    kept = factors.down * (scale * used)[:, None], factors.up * (used / scale)
    narrow, wide = (one.astype(np.float32) for one in kept)
    return Factors(narrow, wide, factors.bias, factors.weight)


def mean(recalls: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """By share, over layers."""
    return tuple(np.mean(np.array(recalls), axis=0).tolist())
