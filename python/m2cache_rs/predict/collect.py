"""Runs a text through a model as decode tokens and watches the neurons of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.errors import NumericsError, UsageError
from m2cache_rs.eval.windows import Window, windows
from m2cache_rs.predict.spool import Spool
from m2cache_rs.predict.statistics import LayerStatistics
from m2cache_rs.runtime.cpu import CpuBackend
from m2cache_rs.runtime.decoder import Batch, Floats, Kind
from m2cache_rs.runtime.session import Model


def texts(model: Model, text: str, tokens: int | None) -> list[Window]:
    """The windows of at most `tokens` tokens of a text. UsageError where there are not two."""
    found = list(windows(model, text, tokens))
    if not found:
        raise UsageError("the text has fewer than two tokens: there is nothing to learn from it")
    return found


def rows_of(parts: Sequence[Window]) -> int:
    """Tokens that run."""
    return sum(len(part.ids) for part in parts)


def neurons(model: Model, layer: int, x: Floats, bits: int) -> Floats:
    """|h| of every neuron for rows x [N, hidden] before the norm: float32 [N, neurons], finite."""
    with model.turn() as backend:
        if not isinstance(backend, CpuBackend):
            raise UsageError("a profile is made on the CPU")
        h = np.abs(backend.engine.neurons(layer, x, bits))
    if not np.isfinite(h).all():
        raise NumericsError(f"layer {layer} has neurons that give no finite number at {bits} bits")
    return h


class Collector:
    """An observer of the decoder: statistics of every layer, and its rows in a spool where there is one."""

    def __init__(self, model: Model, bits: int, spool: Spool | None = None) -> None:
        arch = model.architecture
        self.layers = [LayerStatistics(arch.ffn) for _ in range(arch.layers)]
        self._model, self._bits, self._spool = model, bits, spool
        self._row = 0

    def run(self, parts: Sequence[Window], progress: Callable[[int], None]) -> None:
        """Runs windows, each from position 0; `progress` is told the tokens done."""
        for part in parts:
            for layer in self.layers:
                layer.begin()
            with self._model.sequence(len(part.ids)) as sequence:
                for start in range(0, len(part.ids), DECODE_BATCH):
                    ids = part.ids[start : start + DECODE_BATCH]
                    batch = Batch.run(ids, sequence, start, Kind.DECODE)
                    self._model.forward(batch, np.zeros(len(ids), bool), self._see)
                    self._row += len(ids)
                    progress(self._row)

    def _see(self, layer: int, which: str, x: Floats) -> None:
        if which != "ffn":
            return
        h = neurons(self._model, layer, x, self._bits)
        self.layers[layer].add(h, neurons(self._model, layer, x, 4))
        if self._spool is not None:
            self._spool.write(layer, self._row, x)
