"""One layer's neurons over a text, streamed: who is in top sets, how they change, what 4 bits see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.predict.ranks import Ranks, active_ranks, places_of, ranks
from m2cache_rs.predict.recall import Recall, ratio
from m2cache_rs.predict.tails import Tail
from m2cache_rs.recipe.cut import Shares, rounded
from m2cache_rs.recipe.neurons import BANDS, SHARES, LayerProfile
from m2cache_rs.runtime.decoder import Floats

_HOT = 0.1


class LayerStatistics:
    """Sums over the tokens of one layer; memory is by neuron, whatever the text's length."""

    def __init__(self, neurons: int) -> None:
        self.tokens = 0
        self._neurons = neurons
        self._places = [places_of(Shares(share, BANDS), neurons) for share in SHARES]
        self._mass = np.zeros(neurons)
        self._nonzero = 0
        self._frequency = np.zeros((len(SHARES), neurons), np.int64)
        self._shared = np.zeros((len(SHARES), 1 + len(BANDS), 2))
        self._plane = Recall(neurons)
        self._tails = {"oracle": Tail(neurons), "plane": Tail(neurons)}
        self._last: Ranks | None = None

    def begin(self) -> None:
        """The next token follows none."""
        self._last = None

    def add(self, h: Floats, plane: Floats) -> None:
        """Adds tokens in order: |h| and |h| at 4 bits, finite float32 [N, neurons]."""
        self.tokens += len(h)
        self._mass += h.sum(axis=0, dtype=np.float64)
        self._nonzero += int(np.count_nonzero(h))
        exact = active_ranks(h)
        for i, ((_, count), *_) in enumerate(self._places):
            self._frequency[i] += (exact < count).sum(axis=0)
        self._plane.add_ranks(h, exact, ranks(plane))
        self._compare(exact)
        self._tails["oracle"].add(h)
        self._tails["plane"].add(plane)

    def _compare(self, exact: Ranks) -> None:
        """Adds what each token's sets share with the token's before."""
        rows = exact if self._last is None else np.concatenate([self._last, exact])
        self._last = exact[-1:].copy()
        for i, places in enumerate(self._places):
            for j, (first, end) in enumerate(places):
                member = (rows >= first) & (rows < end)
                self._shared[i, j] += np.count_nonzero(member[1:] & member[:-1]), np.count_nonzero(member[1:])

    def profile(self) -> LayerProfile:
        """What was found so far."""
        overlap = ratio(self._shared[:, :, 0], self._shared[:, :, 1])
        return LayerProfile(
            nonzero=self._nonzero / max(1, self.tokens * self._neurons),
            frequency=tuple(tuple(row) for row in self._frequency.tolist()),
            overlap=tuple(overlap[:, 0].tolist()),
            band_overlap=tuple(tuple(row) for row in overlap[:, 1:].tolist()),
            skew_mass=_hot_share(self._mass),
            skew_members=tuple(_hot_share(row) for row in self._frequency),
            plane_recall=self._plane.neurons(),
            plane_mass=self._plane.mass(),
            thresholds={
                name: tuple(tail.threshold(share) for share in SHARES) for name, tail in self._tails.items()
            },
        )


def _hot_share(values: NDArray[np.float64] | NDArray[np.int64]) -> float:
    """What the highest tenth of the values holds of their sum."""
    hottest = np.sort(values)[::-1][: rounded(_HOT, len(values))]
    return float(ratio(np.array(hottest.sum(), np.float64), np.array(values.sum(), np.float64)))
