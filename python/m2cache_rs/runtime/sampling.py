"""The next token: a pure function of (logits row, settings, seed, position).

Nothing is kept between calls, so batching, speculation and restarts choose the same tokens. The filters run
in the order of transformers' generate(): repetition penalty, temperature, top-k, top-p, min-p. Wherever a
filter must break a tie, the lower id wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.config import Sampling
from m2cache_rs.errors import NumericsError, UsageError

_WORD = 2**64 - 1


def sample(
    row: NDArray[np.float32], settings: Sampling, seed: int, position: int, history: Sequence[int] = ()
) -> int:
    """The id chosen from `row`, the logits [vocab] that predict the token at `position` of its sequence.

    `history` are the ids before it, prompt included; only the repetition penalty reads them. Raises
    NumericsError where a logit is not finite.
    """
    check_finite(row[None], position)
    scores = _penalised(row.astype(np.float64), history, settings.repetition_penalty)
    if settings.temperature == 0:
        return int(np.argmax(scores))
    ids, weights = candidates(scores, settings)
    reached = np.cumsum(weights)
    drawn = np.searchsorted(reached, uniform(seed, position) * reached[-1], side="right")
    return int(ids[min(int(drawn), len(ids) - 1)])


def check_finite(rows: NDArray[np.float32], position: int) -> None:
    """NumericsError where logits [N, vocab] for `position` and those behind it are not finite."""
    sound = np.isfinite(rows).all(axis=-1)
    if not sound.all():
        first = position + int(np.argmin(sound))
        raise NumericsError(
            f"the logits for position {first} are not finite: the model overflows, or its weights are "
            "damaged (m2cache verify tells)"
        )


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) drawn for this position: Philox 4x64-10 keyed by `seed`, its counter at `position`.

    Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    """
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed is {seed}; it must lie in 0..2^64-1")
    # numpy's generator counts before it draws; its module would take 6 MiB and 20 ms for this one number.
    return (_philox(seed, position + 1) >> 11) * 2.0**-53


def _philox(key: int, counter: int) -> int:
    """The first of the four words that Philox 4x64-10 makes of a key below 2^64 and a counter below 2^128."""
    x0, x1, x2, x3, k0, k1 = counter & _WORD, counter >> 64, 0, 0, key, 0
    for _ in range(10):
        low, high = x0 * 0xD2E7470EE14C6C93, x2 * 0xCA5A826395121157
        x0, x1, x2, x3 = (high >> 64) ^ x1 ^ k0, high & _WORD, (low >> 64) ^ x3 ^ k1, low & _WORD
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & _WORD, (k1 + 0xBB67AE8584CAA73B) & _WORD
    return x0


def candidates(
    scores: NDArray[np.float64], settings: Sampling
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids that survive the filters, ascending, and their weights (not normalised), by temperature above 0."""
    scores = (scores - scores.max()) / settings.temperature
    ids = _top_k(scores, int(settings.top_k))
    weights = np.exp(scores[ids])
    ids, weights = _top_p(ids, weights, settings.top_p)
    likely = weights >= settings.min_p * weights.max()
    return ids[likely], weights[likely]


def _penalised(scores: NDArray[np.float64], history: Sequence[int], penalty: float) -> NDArray[np.float64]:
    """CTRL's penalty (arXiv 1909.05858, section 4.1), with transformers' rule for negative scores."""
    if penalty != 1.0 and len(history):
        seen = np.asarray(history, dtype=np.int64)
        before = scores[seen]
        scores[seen] = np.where(before < 0, before * penalty, before / penalty)
    return scores


def _top_k(scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    if k == 0 or k >= len(scores):
        return np.arange(len(scores))
    least = np.partition(scores, -k)[-k]
    above = np.flatnonzero(scores > least)
    level = np.flatnonzero(scores == least)[: k - len(above)]
    return np.sort(np.concatenate([above, level]))


def _top_p(
    ids: NDArray[np.int64], weights: NDArray[np.float64], p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keeps a candidate if those before it, by falling weight, sum to less than p of the whole."""
    if p == 1.0:
        return ids, weights
    # All weights below half of (1 - p) / n cannot sum to 1 - p, so none of them is kept: sorting the rest is
    # cheap.
    likely = np.flatnonzero(weights >= 0.5 * (1 - p) / len(weights) * weights.sum())
    order = likely[np.argsort(-weights[likely], kind="stable")]
    before = np.cumsum(weights[order]) - weights[order]
    kept = np.sort(order[: max(1, np.count_nonzero(before < p * weights.sum()))])
    return ids[kept], weights[kept]
