"""Small checkpoints in memory: read, write exactly, and inject outlier channels."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import reference
from m2cache_rs.models import Architecture
from numpy.typing import NDArray

Float = NDArray[np.float32]

OUTLIER_FACTOR = 32.0
OUTLIERS_PER_NORM = 6
# Norm gains and the matrices whose columns undo them. The final norm is left alone: its matrix is the
# tied embedding, whose rows are also the model's input.
READERS = {"norm.attn": ("q", "k", "v"), "norm.ffn": ("gate", "up")}


@dataclass(frozen=True)
class Checkpoint:
    """A model in float32: matrices as records by the reference's names ("0.q", "embed", "norm.final")."""

    config: Mapping[str, Any]
    architecture: Architecture
    named: dict[str, Float]

    @property
    def matrices(self) -> dict[str, int]:
        """Weights of each matrix: what is quantised. Norms are not in it."""
        return {name: values.size for name, values in self.named.items() if values.ndim == 2}

    def logits(self, ids: NDArray[np.uint32]) -> Float:
        """The float32 reference: ids [T] -> [T, vocab]."""
        logits: Float = reference.forward(self.architecture, reference.Plain(self.named), ids)
        return logits

    def with_activation(self, name: str) -> Checkpoint:
        """The same weights under another FFN activation."""
        return dataclasses.replace(self, architecture=dataclasses.replace(self.architecture, activation=name))


def read(directory: Path) -> Checkpoint:
    """Reads a Hugging Face directory."""
    return Checkpoint(*reference.load(directory))


def write(checkpoint: Checkpoint, source: Path, target: Path) -> Path:
    """Writes a bf16 directory with the tokenizer files of `source`; returns `target`.

    Raises ValueError for a value that bf16 would round: the copy must be the same model to the bit.
    """
    reference.save(target, checkpoint.config, checkpoint.named, "BF16")
    for path in source.glob("*.json"):
        if path.name != "config.json":
            shutil.copyfile(path, target / path.name)
    for name, values in read(target).named.items():
        if not np.array_equal(values, checkpoint.named[name]):
            raise ValueError(f"{name}: a value is not exact in bf16")
    return target


def inject(checkpoint: Checkpoint, seed: int = 0) -> Checkpoint:
    """The same float32 function with outlier channels, as large models grow them.

    Of every attention and FFN norm, OUTLIERS_PER_NORM gains (drawn from seed, layer and norm) are multiplied
    by OUTLIER_FACTOR and the columns that read them divided by it. The factor is a power of two, so products,
    and with them every logit, keep their bits.
    """
    named = dict(checkpoint.named)
    for layer in range(checkpoint.architecture.layers):
        for number, (norm, readers) in enumerate(READERS.items()):
            factor = _outliers(checkpoint.architecture.hidden, [seed, layer, number])
            named[f"{layer}.{norm}"] = named[f"{layer}.{norm}"] * factor
            for reader in readers:
                named[f"{layer}.{reader}"] = named[f"{layer}.{reader}"] / factor
    return dataclasses.replace(checkpoint, named=named)


def _outliers(hidden: int, seed: list[int]) -> Float:
    factor = np.ones(hidden, np.float32)
    factor[np.random.default_rng(seed).choice(hidden, OUTLIERS_PER_NORM, replace=False)] = OUTLIER_FACTOR
    return factor
