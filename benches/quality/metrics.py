"""How far one model's logits are from another's, window by window: the units of bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from m2cache_rs.eval.bootstrap import interval, ratio_interval
from numpy.typing import NDArray

__all__ = ["Double", "Float", "Logits", "Score", "interval", "log_softmax", "ratio_interval", "score"]

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Logits = Callable[[NDArray[np.uint32]], Float]  # ids [T] -> logits [T, vocab]


@dataclass(frozen=True)
class Score:
    """Per-window means, each ``[windows]``: KL in nats, next-token NLL in nats, top-1 agreement in 0..1."""

    kl: Double
    nll: Double
    top1: Double

    @property
    def perplexity(self) -> float:
        """exp of the mean next-token NLL over all windows."""
        return float(np.exp(self.nll.mean()))


def log_softmax(logits: Float) -> Double:
    """Row-wise, in float64."""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def score(model: Logits, windows: NDArray[np.uint32], reference: Iterable[Float]) -> Score:
    """Compares ``model`` with the reference's logits ``[T, vocab]``, one array a window.

    KL(reference || model) and top-1 agreement are means over all T positions, NLL over the T - 1 that have a
    next token. Raises ``ValueError`` for non-finite logits: they have no KL.
    """
    rows = [_window(model(ids), ids, expected) for ids, expected in zip(windows, reference, strict=True)]
    return Score(*(np.asarray(column) for column in zip(*rows, strict=True)))


def _window(logits: Float, ids: NDArray[np.uint32], reference: Float) -> tuple[float, float, float]:
    if logits.shape != reference.shape:
        raise ValueError(f"logits of shape {logits.shape}, {reference.shape} expected")
    if not np.isfinite(logits).all():
        raise ValueError("non-finite logits")
    log_p, log_q = log_softmax(reference), log_softmax(logits)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    nll = -log_q[np.arange(len(ids) - 1), ids[1:].astype(np.intp)].mean()
    return float(kl), float(nll), float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean())
