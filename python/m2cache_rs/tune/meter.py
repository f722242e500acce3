"""What recipes cost on a text, beside the same store at its best."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import IO

import numpy as np

from m2cache_rs.config import format_size
from m2cache_rs.errors import StoreIOError
from m2cache_rs.eval import metrics
from m2cache_rs.eval.run import costs
from m2cache_rs.eval.scores import Scores
from m2cache_rs.eval.windows import Window
from m2cache_rs.recipe.cut import Shares as Cut
from m2cache_rs.recipe.profiles import io_error
from m2cache_rs.recipe.recipe import Dense, Recipe
from m2cache_rs.runtime.decoder import Floats
from m2cache_rs.runtime.session import Model
from m2cache_rs.tune.frontier import Point
from m2cache_rs.tune.journal import Journal
from m2cache_rs.tune.layers import UNIFORM, Shares
from m2cache_rs.tune.ranking import Ranking

# Rows whose probabilities exist at a time in float64.
_ROWS = 8


@dataclass(frozen=True)
class Text:
    """Windows of ids, each run from position 0."""

    windows: tuple[Window, ...]

    @property
    def rows(self) -> int:
        """Ids of all windows."""
        return sum(len(window.ids) for window in self.windows)

    @property
    def digest(self) -> str:
        """The SHA-256 of the windows' ids, in hexadecimal."""
        found = hashlib.sha256()
        for window in self.windows:
            found.update(b"%d %d " % (len(window.ids), window.given) + window.ids.tobytes())
        return found.hexdigest()

    @property
    def starts(self) -> list[int]:
        """The first row of each window, and what would be the next one's."""
        lengths = [len(window.ids) for window in self.windows]
        return [sum(lengths[:i]) for i in range(len(lengths) + 1)]


def predictions(model: Model, text: Text, kept: IO[bytes]) -> Floats:
    """What a model predicts for a text, as logarithms [rows, vocab] that lie in the file `kept`, 4 bytes
    each; memory is a few rows of it."""
    found = np.memmap(kept, np.float32, "w+", shape=(text.rows, model.architecture.vocab))
    for window, first in zip(text.windows, text.starts, strict=False):
        for rows, logits in _batches(model, window):
            found[first + rows.start : first + rows.stop] = metrics.log_softmax(logits)
    return found


class Meter:
    """Runs recipes on a text and compares what each predicts with a `reference` (`predictions`).

    `base` gives the levels of all but the decode tokens' FFN; `model` has room for every recipe with them.
    What `journal` has is not run again.
    """

    def __init__(
        self,
        text: Text,
        base: Recipe,
        ranking: Ranking,
        model: Model,
        reference: Floats,
        journal: Journal,
    ) -> None:
        self.text, self.base, self.ranking = text, base, ranking
        self.layers = model.architecture.layers
        self._model, self._reference, self._journal = model, reference, journal
        self._known: dict[tuple[Shares, ...], Point] = {}
        self.progress: Callable[[], None] = lambda: None

    def recipe(self, shares: Sequence[Shares]) -> Recipe:
        """The recipe whose layers have these shares: dense where all have all neurons at one level."""
        same = len(set(shares)) == 1
        for bits, uniform in UNIFORM.items():
            if same and shares[0] == uniform:
                return replace(self.base, ffn=Dense(bits))
        layers = shares[:1] if same else shares
        return replace(self.base, ffn=self.ranking.sparse([cut(one) for one in layers]))

    def point(self, how: str, shares: Sequence[Shares]) -> Point:
        """What layers with these shares cost; measured once for each, whatever it is called."""
        key = tuple(shares)
        if key not in self._known:
            self._known[key] = self._journal.find(how, key) or self._kept(self._measured(how, key))
            self.progress()
        return self._known[key]

    def _kept(self, point: Point) -> Point:
        self._journal.add(point)
        return point

    def _measured(self, how: str, shares: tuple[Shares, ...]) -> Point:
        scores, entropy = Scores(compared=True), 0.0
        with self._model.serving(self.recipe(shares)) as model:
            before = model.stats()
            for window, first in zip(self.text.windows, self.text.starts, strict=False):
                for rows, logits in _batches(model, window):
                    scores.begin_block()
                    entropy += self._add(scores, window, first, rows, logits)
            cost = costs(model, before, self.text.rows)
        return Point(
            how,
            shares,
            scores.kl,
            scores.kl_interval,
            entropy / scores.tokens,
            scores.perplexity,
            cost["needed_bytes_per_token"],
            cost["bits_per_weight"],
        )

    def _add(self, scores: Scores, window: Window, first: int, rows: slice, logits: Floats) -> float:
        """Scores the rows that predict; the sum of the entropies of what they predict."""
        start = max(rows.start, window.given - 1)
        stop = min(rows.stop, len(window.ids) - 1)
        entropy = 0.0
        for low, high in pairwise([*range(start, stop, _ROWS), stop]):
            predicted = metrics.log_softmax(logits[low - rows.start : high - rows.start])
            reference = self._reference[first + low : first + high].astype(np.float64)
            scores.add_rows(predicted, reference, window.ids[low + 1 : high + 1])
            entropy -= float((np.exp(predicted) * predicted).sum())
        return entropy


def _batches(model: Model, window: Window) -> Iterator[tuple[slice, Floats]]:
    """Rows of a window and their logits."""
    at = 0
    for logits in model.logits_by_batch(window.ids):
        yield slice(at, at + len(logits)), logits
        at += len(logits)


def scratch(size: int) -> IO[bytes]:
    """Where `size` bytes of the reference's predictions lie while recipes are measured: a file without a
    name, of which nothing is left however the process ends. StoreIOError.
    """
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free >= size:
            return tempfile.TemporaryFile(prefix="m2cache-tune-")
    except OSError as error:
        raise io_error("the predictions at 16 bits find no temporary file", error) from error
    raise StoreIOError(
        f"the predictions at 16 bits take {format_size(size)} in {folder}, where {format_size(free)} are "
        "free: fewer --tokens, or another TMPDIR"
    )


def cut(shares: Shares) -> Cut:
    """Shares of all neurons as a recipe has them."""
    active = sum(shares)
    first, second, third = (share / active for share in shares)
    return Cut(min(active, 1.0), (first, second, third))
