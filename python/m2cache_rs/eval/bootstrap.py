"""Bootstrap 95 % intervals of means (Efron 1979): units that belong together are resampled together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.float64]

RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)
# Entries of an array of indices: memory does not grow with the units.
_ENTRIES = 1 << 20


def interval(values: Double) -> tuple[float, float]:
    """Of the mean of the units' values."""
    return _percentiles([values[index].mean(axis=1) for index in _resamples(len(values))])


def weighted_interval(sums: Double, counts: Double) -> tuple[float, float]:
    """Of sum(sums) / sum(counts), of units of several sizes."""
    found = [sums[index].sum(axis=1) / counts[index].sum(axis=1) for index in _resamples(len(sums))]
    return _percentiles(found)


def ratio_interval(values: Double, baseline: Double) -> tuple[float, float]:
    """Of mean(values) / mean(baseline), paired: both come from the same units."""
    means = [values[index].mean(axis=1) / baseline[index].mean(axis=1) for index in _resamples(len(values))]
    return _percentiles(means)


def _percentiles(means: list[Double]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate(means), INTERVAL)
    return float(low), float(high)


def _resamples(units: int) -> Iterator[NDArray[np.int64]]:
    """Indices of `RESAMPLES` draws, the same for every call."""
    rng = np.random.default_rng(0)
    rows = max(1, min(RESAMPLES, _ENTRIES // units))
    starts = range(0, RESAMPLES, rows)
    return (rng.integers(0, units, (min(rows, RESAMPLES - start), units)) for start in starts)
