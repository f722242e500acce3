"""Rankings of a layer's neurons: the order in which `select` takes them, ties by lower id."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.recipe.cut import Shares
from m2cache_rs.runtime.decoder import Floats

Ranks = NDArray[np.int32]


def ranks(scores: Floats) -> Ranks:
    """The place of every neuron in its row, 0 the highest: int32 [N, neurons] of finite scores from 0 on.

    Bits and id make one key each, sorted as integers: three times faster here than a stable argsort.
    """
    count = scores.shape[1]
    bits = np.ascontiguousarray(np.abs(scores)).view(np.uint32)
    keys = (np.uint32(0xFFFFFFFF) - bits).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(count, dtype=np.uint64)
    keys.sort(axis=1)
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    found = np.empty(scores.shape, np.int32)
    np.put_along_axis(found, order, np.arange(count, dtype=np.int32)[None], axis=1)
    return found


def active_ranks(h: Floats) -> Ranks:
    """The same of |h|, a neuron that gives exactly 0 behind all: it is in no set."""
    found = ranks(h)
    found[h == 0] = h.shape[1]
    return found


def places_of(cut: Shares, neurons: int) -> list[tuple[int, int]]:
    """First and last place (exclusive) of a cut's active set, then of its bands at 16, 8 and 4 bits."""
    counts = cut.counts(neurons)
    ends = list(accumulate(counts))
    return [(0, ends[-1]), *((end - count, end) for end, count in zip(ends, counts, strict=True))]
