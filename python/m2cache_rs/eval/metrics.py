"""How well logits predict a text, and how far they are from other logits; all in float64, in nats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.errors import NumericsError

Rows = NDArray[np.float64]


def log_softmax(logits: NDArray[np.float32]) -> Rows:
    """Log-probabilities [N, vocab]. NumericsError where a logit is not finite."""
    if not np.isfinite(logits).all():
        raise NumericsError(
            "logits are not finite: the model overflows, or its weights are damaged (m2cache verify)"
        )
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def cross_entropy(predicted: Rows, targets: NDArray[np.uint32]) -> Rows:
    """Nats [N] that the log-probabilities [N, vocab] leave to each target."""
    return np.asarray(-predicted[np.arange(len(targets)), targets])


def kl_divergence(reference: Rows, predicted: Rows) -> Rows:
    """KL(reference || predicted) in nats [N], of log-probabilities [N, vocab]."""
    return np.asarray((np.exp(reference) * (reference - predicted)).sum(axis=-1))


def top1_equal(reference: Rows, predicted: Rows) -> NDArray[np.bool_]:
    """Where both name the same id first [N] (ties: the lowest id)."""
    return np.asarray(reference.argmax(axis=-1) == predicted.argmax(axis=-1))
