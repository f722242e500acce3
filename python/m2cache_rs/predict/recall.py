"""How much of the exact top sets a ranking finds, streamed over tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.predict.ranks import Ranks, active_ranks, ranks
from m2cache_rs.recipe.cut import rounded
from m2cache_rs.recipe.neurons import SHARES
from m2cache_rs.runtime.decoder import Floats


class Recall:
    """Of the sets of `SHARES` (see `LayerProfile`): what the k highest by other scores hold of them."""

    def __init__(self, neurons: int) -> None:
        self._counts = [rounded(share, neurons) for share in SHARES]
        self._held, self._whole = np.zeros((2, len(SHARES))), np.zeros((2, len(SHARES)))

    def add(self, h: Floats, scores: Floats) -> None:
        """Adds tokens: |h| and scores [N, neurons], finite and from 0 on."""
        self.add_ranks(h, active_ranks(h), ranks(scores))

    def add_ranks(self, h: Floats, exact: Ranks, guessed: Ranks) -> None:
        """The same of rankings that are there."""
        for i, count in enumerate(self._counts):
            member = exact < count
            both = member & (guessed < count)
            self._held[:, i] += np.count_nonzero(both), np.vdot(h, both)
            self._whole[:, i] += np.count_nonzero(member), np.vdot(h, member)

    def neurons(self) -> tuple[float, ...]:
        """Share of the neurons, by `SHARES`."""
        return tuple(ratio(self._held[0], self._whole[0]).tolist())

    def mass(self) -> tuple[float, ...]:
        """Share of their |h|, by `SHARES`."""
        return tuple(np.minimum(1, ratio(self._held[1], self._whole[1])).tolist())


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares; 1 of nothing."""
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)
