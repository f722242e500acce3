"""What recipes cost on a text, beside the same store at its best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from m2cache_rs.eval import metrics
from m2cache_rs.eval.run import costs
from m2cache_rs.eval.scores import Scores
from m2cache_rs.eval.windows import Window
from m2cache_rs.recipe.cut import Shares as Cut
from m2cache_rs.recipe.recipe import Dense, Recipe
from m2cache_rs.runtime.decoder import Floats
from m2cache_rs.runtime.session import Model
from m2cache_rs.tune.frontier import Point
from m2cache_rs.tune.journal import Journal
from m2cache_rs.tune.layers import UNIFORM, Shares
from m2cache_rs.tune.ranking import Ranking
from m2cache_rs.tune.reference import Reference
from m2cache_rs.tune.text import ROWS, Text, batches


class Meter:
    """Runs recipes on a text and compares what each predicts with a `reference` (`predictions`).

    `base` gives the levels of all but the decode tokens' FFN; `model` has room for every recipe with them.
    What `journal` has is not run again. `check` raises where what runs is not what it would be kept as.
    """

    def __init__(
        self,
        text: Text,
        base: Recipe,
        ranking: Ranking,
        model: Model,
        reference: Reference,
        journal: Journal,
        check: Callable[[], None],
    ) -> None:
        self.text, self.base, self.ranking = text, base, ranking
        self.layers = model.architecture.layers
        self._model, self._reference, self._journal, self._check = model, reference, journal, check
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
        self._check()
        scores, entropy = Scores(compared=True), 0.0
        with self._model.serving(self.recipe(shares)) as model:
            before = model.stats()
            for window, first in zip(self.text.windows, self.text.starts, strict=False):
                for rows, logits in batches(model, window):
                    scores.begin_block()
                    entropy += self._add(scores, window, first, rows, logits)
            cost = costs(model, before, self.text.rows)
        # The first recipe that is ranked reads its predictor.
        self._check()
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
        for low, high in pairwise([*range(start, stop, ROWS), stop]):
            predicted = metrics.log_softmax(logits[low - rows.start : high - rows.start])
            reference = self._reference.rows(first + low, high - low).astype(np.float64)
            scores.add_rows(predicted, reference, window.ids[low + 1 : high + 1])
            entropy -= float((np.exp(predicted) * predicted).sum())
        return entropy


def cut(shares: Shares) -> Cut:
    """Shares of all neurons as a recipe has them."""
    active = sum(shares)
    first, second, third = (share / active for share in shares)
    return Cut(min(active, 1.0), (first, second, third))
