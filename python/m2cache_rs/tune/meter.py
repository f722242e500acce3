"""What recipes cost on a text, beside the same store at its best."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.config import format_size
from m2cache_rs.errors import StoreIOError
from m2cache_rs.eval import metrics
from m2cache_rs.runtime.cut import Shares as Cut
from m2cache_rs.runtime.decoder import Floats
from m2cache_rs.runtime.recipe import Dense, Recipe, Sparse
from m2cache_rs.runtime.session import Model
from m2cache_rs.tune.frontier import Point
from m2cache_rs.tune.layers import UNIFORM, Shares

# Rows whose probabilities exist at a time in float64.
_ROWS = 8

Open = Callable[[Recipe], Model]


@dataclass(frozen=True)
class Text:
    """Windows of ids, each run from position 0; rows count all of them."""

    windows: tuple[NDArray[np.uint32], ...]

    @property
    def rows(self) -> int:
        """Ids of all windows."""
        return sum(map(len, self.windows))


class Meter:
    """Runs recipes on a text and compares each with the reference, whose predictions lie in a file.

    Memory is a few rows of logits; the file takes 4 bytes a row and entry of the vocabulary.
    """

    def __init__(self, text: Text, base: Recipe, selector: str, open_with: Open, kept: Path) -> None:
        self.text, self.base, self.selector, self._open = text, base, selector, open_with
        self._known: dict[tuple[Shares, ...], Point] = {}
        self.progress: Callable[[], None] = lambda: None
        with self._open(Recipe.dense(16)) as model:
            shape = (text.rows, model.architecture.vocab)
            self._reference = np.memmap(kept, np.float32, "w+", shape=shape)
            self._layers = model.architecture.layers
            for rows, logits in self._batches(model):
                self._reference[rows] = metrics.log_softmax(logits)

    @property
    def layers(self) -> int:
        """Of the model."""
        return self._layers

    def recipe(self, shares: Sequence[Shares]) -> Recipe:
        """The recipe whose layers have these shares: dense where all have all neurons at one level."""
        base, first = self.base, shares[0]
        for bits, uniform in UNIFORM.items():
            if first == uniform and len(set(shares)) == 1:
                return Recipe(base.attn, base.head, base.embed, base.prompt, Dense(bits))
        layers = tuple(shares[:1] if len(set(shares)) == 1 else shares)
        ffn = Sparse(self.selector, tuple(map(_cut, layers)))
        return Recipe(base.attn, base.head, base.embed, base.prompt, ffn)

    def point(self, how: str, shares: Sequence[Shares]) -> Point:
        """What layers with these shares cost; measured once for each."""
        key = tuple(shares)
        if key not in self._known:
            self._known[key] = self._measured(how, key)
            self.progress()
        return self._known[key]

    def _measured(self, how: str, shares: tuple[Shares, ...]) -> Point:
        kl: list[NDArray[np.float64]] = []
        entropy = nats = 0.0
        targets = self._targets()
        with self._open(self.recipe(shares)) as model:
            for rows, logits in self._batches(model):
                predicted = metrics.log_softmax(logits)
                kl.append(metrics.kl_divergence(self._reference[rows].astype(np.float64), predicted))
                entropy -= float((np.exp(predicted) * predicted).sum())
                nats += _nats(predicted, targets[rows])
            touched = model.touched_bytes_per_token
            bits = model.ffn_bits_per_weight
        every = np.concatenate(kl)
        predicted_tokens = self.text.rows - len(self.text.windows)
        return Point(
            how,
            shares,
            float(every.mean()),
            metrics.interval(every),
            entropy / self.text.rows,
            float(np.exp(nats / predicted_tokens)),
            touched,
            bits,
        )

    def _targets(self) -> NDArray[np.int64]:
        """The id behind each row, -1 behind the last of a window."""
        behind = [np.append(ids[1:].astype(np.int64), -1) for ids in self.text.windows]
        return np.concatenate(behind)

    def _batches(self, model: Model) -> Iterator[tuple[slice, Floats]]:
        """Rows of the text and their logits, a few at a time."""
        at = 0
        for ids in self.text.windows:
            for logits in model.logits_by_batch(ids):
                for start in range(0, len(logits), _ROWS):
                    some = logits[start : start + _ROWS]
                    yield slice(at, at + len(some)), some
                    at += len(some)


@contextmanager
def scratch(size: int) -> Iterator[Path]:
    """Where `size` bytes of the reference's predictions lie while recipes are measured."""
    with tempfile.TemporaryDirectory(prefix="m2cache-tune-") as folder:
        free = shutil.disk_usage(folder).free
        if free < size:
            raise StoreIOError(
                f"the predictions at 16 bits take {format_size(size)} in {tempfile.gettempdir()}, where "
                f"{format_size(free)} are free: fewer --tokens, or another TMPDIR"
            )
        yield Path(folder) / "reference.f32"


def _cut(shares: Shares) -> Cut:
    active = sum(shares)
    first, second, third = (share / active for share in shares)
    return Cut(min(active, 1.0), (first, second, third))


def _nats(predicted: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    there = np.flatnonzero(targets >= 0)
    return float(-predicted[there, targets[there]].sum())
