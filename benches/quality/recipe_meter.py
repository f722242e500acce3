"""Runs recipes and other models on one text, and compares each with the store dense at 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from m2cache_rs import Model
from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.eval import metrics
from m2cache_rs.eval.models import free_bytes
from m2cache_rs.eval.run import costs
from m2cache_rs.eval.scores import Scores
from m2cache_rs.eval.windows import Window
from m2cache_rs.recipe.recipe import Recipe, Sparse
from m2cache_rs.runtime.cost import ffn_weights
from m2cache_rs.runtime.opening import Opened
from numpy.typing import NDArray
from recipe_rows import Line

Float = NDArray[np.float32]
Batches = Callable[[Window], Iterator[Float]]  # logits of a window, in batches of DECODE_BATCH rows

# Rows whose probabilities exist at a time in float64.
_ROWS = 8


@dataclass(frozen=True)
class Options:
    """What every model of a run is opened with. Keys and values are in f32: the weights alone differ."""

    dram: int | str | None = None
    threads: int | None = None
    window: int = 256


class Meter:
    """A store on windows of ids. Its logits dense at 16 bits lie in the file `kept`, 4 bytes a row and entry
    of the vocabulary; memory is a few rows of them."""

    def __init__(
        self, subject: str, opened: Opened, windows: Sequence[Window], kept: Path, options: Options
    ) -> None:
        self.subject, self.opened, self.windows, self._options = subject, opened, windows, options
        rows = sum(len(one.ids) for one in windows)
        self._reference = np.memmap(kept, np.float32, "w+", shape=(rows, opened.architecture.vocab))
        with self._open(Recipe.dense(16)) as model:
            at = 0
            for window in windows:
                for logits in model.logits_by_batch(window.ids):
                    self._reference[at : at + len(logits)] = logits
                    at += len(logits)

    @property
    def counts(self) -> list[int]:
        """Predicted tokens of each block."""
        found = []
        for window in self.windows:
            edges = [*range(0, len(window.ids), DECODE_BATCH), len(window.ids)]
            spans = [
                (max(low, window.given - 1), min(high, len(window.ids) - 1)) for low, high in pairwise(edges)
            ]
            found += [high - low for low, high in spans if high > low]
        return found

    def ours(self, group: str, label: str, recipe: Recipe, **labels: Any) -> Line:
        """A recipe's line. Raises what `Model.open` does."""
        with self._open(recipe) as model:
            before = model.stats()
            scores = self._scores(lambda window: model.logits_by_batch(window.ids))
            cost = costs(model, before, len(self._reference))
        size, bits = cost["needed_bytes_per_token"], cost["bits_per_weight"]
        if isinstance(recipe.ffn, Sparse) and recipe.ffn.paid == "oracle":
            free = free_bytes(self.opened, recipe)
            unpaid = 8 * (size - free) / ffn_weights(self.opened.architecture)
            labels["free"] = free, bits - unpaid
        labels |= {"recipe": recipe.to_dict(), "active": tuple(cost["active"])}
        return self._line(group, label, scores, size, bits, **labels)

    def other(self, group: str, label: str, batches: Batches, size: float, bits: float) -> Line:
        """The line of a model that is not ours, all of whose neurons are computed."""
        return self._line(group, label, self._scores(batches), size, bits)

    def _open(self, recipe: Recipe) -> Model:
        options = self._options
        context = min(options.window, self.opened.context)
        return Model.open(
            self.opened, options.dram, ctx=context, threads=options.threads, kv="f32", recipe=recipe
        )

    def _line(self, group: str, label: str, scores: Scores, size: float, bits: float, **labels: Any) -> Line:
        nats = tuple(float(f"{kl:.5g}") for kl, count in scores.blocks if count)
        found = (scores.perplexity, scores.kl, scores.kl_interval, float(size), float(bits))
        return Line(self.subject, group, label, *found, blocks=nats, **labels)

    def _scores(self, batches: Batches) -> Scores:
        scores, first = Scores(compared=True), 0
        for window in self.windows:
            at = 0
            for logits in batches(window):
                if logits.shape[1] != self._reference.shape[1]:
                    raise ValueError(f"a vocabulary of {logits.shape[1]}: it is another model")
                scores.begin_block()
                self._add(scores, window, first, slice(at, at + len(logits)), logits)
                at += len(logits)
            first += len(window.ids)
        return scores

    def _add(self, scores: Scores, window: Window, first: int, rows: slice, logits: Float) -> None:
        """Scores the rows of a batch that predict."""
        start, stop = max(rows.start, window.given - 1), min(rows.stop, len(window.ids) - 1)
        for low, high in pairwise([*range(start, stop, _ROWS), stop]):
            predicted = metrics.log_softmax(logits[low - rows.start : high - rows.start])
            reference = metrics.log_softmax(self._reference[first + low : first + high])
            scores.add_rows(predicted, reference, window.ids[low + 1 : high + 1])


def whole(logits: Callable[[NDArray[np.uint32]], Float]) -> Batches:
    """Batches of a model that runs a window at once."""

    def batches(window: Window) -> Iterator[Float]:
        found = logits(window.ids)
        return (found[at : at + DECODE_BATCH] for at in range(0, len(found), DECODE_BATCH))

    return batches
