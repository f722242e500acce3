"""How many scores lie above any bound, streamed: 64 bins of float32 numbers to an octave."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.recipe.neurons import Threshold
from m2cache_rs.runtime.decoder import Floats

_SHIFT = 17
"""A bin is all numbers that share an exponent and 6 bits behind it: its width is 1/64 to 1/128 of them."""
_OCTAVES = (-30, 18)
"""From 2^-30 to 2^18: what lies outside is in the first or the last bin."""
_FIRST, _END = ((127 + power) << 23 >> _SHIFT for power in _OCTAVES)
_BINS = _END - _FIRST


class Tail:
    """Scores of a layer, token by token; 74 KB whatever their number."""

    def __init__(self, neurons: int) -> None:
        self.tokens = 0
        self._neurons = neurons
        # For every bin, of how many scores of a token are in it or above: sum, sum of squares, most.
        self._sum = np.zeros(_BINS, np.int64)
        self._squares = np.zeros(_BINS, np.float64)
        self._most = np.zeros(_BINS, np.int64)

    def add(self, scores: Floats) -> None:
        """Adds tokens' scores [N, neurons], finite and from 0 on."""
        rows = len(scores)
        bins = (scores.view(np.uint32) >> _SHIFT).astype(np.int64)
        bins = bins.clip(_FIRST - 1, _END - 1) - (_FIRST - 1)
        bins += np.arange(rows)[:, None] * (_BINS + 1)
        counts = np.bincount(bins.ravel(), minlength=rows * (_BINS + 1)).reshape(rows, _BINS + 1)
        above = counts[:, :0:-1].cumsum(axis=1)[:, ::-1]
        self.tokens += rows
        self._sum += above.sum(axis=0)
        self._squares += np.square(above, dtype=np.float64).sum(axis=0)
        np.maximum(self._most, above.max(axis=0), out=self._most)

    def threshold(self, share: float) -> Threshold:
        """The edge of a bin that cuts nearest to a share of all scores; the share it cuts is exact.

        The share differs from what was asked for by half of what lies in one bin at most, unless too many
        scores are below 2^-30 (exactly 0, as ReLU gives): then all others are above.
        """
        shares = self._sum / (self.tokens * self._neurons)
        edge = int(np.argmin(np.abs(shares - share)))
        mean = self._sum[edge] / self.tokens
        spread = math.sqrt(max(0.0, self._squares[edge] / self.tokens - mean * mean))
        most = max(1, min(int(self._most[edge]), math.ceil(mean + 3 * spread)))
        return Threshold(_value(_FIRST + edge), float(shares[edge]), most)


def _value(edge: int) -> float:
    """The least number of a bin."""
    bits: NDArray[np.uint32] = np.array([edge << _SHIFT], np.uint32)
    return float(bits.view(np.float32)[0])
