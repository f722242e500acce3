"""What a layer met on the profile's text: inputs that predictors learn from, and others to test them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from m2cache_rs._core import Store
from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.predict.collect import neurons
from m2cache_rs.predict.lowrank import FfnMatrices
from m2cache_rs.predict.spool import Spool
from m2cache_rs.runtime.decoder import Floats
from m2cache_rs.runtime.session import Model

HELD_OUT = 0.2
"""Share of the tokens, the last ones, that nothing is learned from."""
_TILE = 4 << 20
"""Weights of a matrix in memory at a time."""


class Sample:
    """The rows of a spool through one layer of a model."""

    def __init__(self, model: Model, store: Store, spool: Spool, rows: int, layer: int, bits: int) -> None:
        self._model, self._store, self._spool = model, store, spool
        self._rows, self._layer, self._bits = rows, layer, bits
        self.learned = max(1, rows - max(1, round(HELD_OUT * rows)))

    def inputs(self) -> Floats:
        """Normed inputs to learn from, float32 [T, hidden]."""
        return self.normed(self._spool.read(self._layer, 0, self.learned))

    def normed(self, x: Floats) -> Floats:
        """Rows as the FFN's matrices read them."""
        arch = self._model.architecture
        mean = np.mean(np.square(x), axis=1, keepdims=True, dtype=np.float64)
        with self._model.turn() as backend:
            gain = backend.norm(self._layer, "ffn")
        return np.asarray(x / np.sqrt(mean + arch.norm_eps) * gain, np.float32)

    def given(self) -> Floats:
        """|h| of the inputs to learn from, float32 [T, neurons]."""
        return np.concatenate([h for _, h in self._batches(0, self.learned)])

    def held_out(self) -> Iterator[tuple[Floats, Floats]]:
        """(x before the norm, |h|) of the other rows, some at a time."""
        return self._batches(self.learned, self._rows)

    def _batches(self, first: int, end: int) -> Iterator[tuple[Floats, Floats]]:
        for at in range(first, end, DECODE_BATCH):
            x = self._spool.read(self._layer, at, min(DECODE_BATCH, end - at))
            yield x, neurons(self._model, self._layer, x, self._bits)

    def matrices(self) -> FfnMatrices:
        """What ranks the layer's neurons, decoded tile by tile."""
        arch = self._model.architecture
        main = "gate" if arch.gated else "up"
        bias = np.zeros(arch.ffn, np.float32)
        if main in arch.biases:
            bias = self._store.vector(self._layer, f"bias.{main}")
        gate = partial(self._tiles, "gate") if arch.gated else None
        return FfnMatrices(gate, partial(self._tiles, "up"), bias, arch.activation)

    def _tiles(self, matrix: str) -> Iterator[Floats]:
        arch = self._model.architecture
        step = max(1, _TILE // arch.hidden)
        for first in range(0, arch.ffn, step):
            count = min(step, arch.ffn - first)
            yield self._store.rows(self._layer, matrix, first, count, self._bits)
