"""Scores a store on a text: perplexity, and the distance from the same store dense at 16 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

from m2cache_rs.errors import UsageError
from m2cache_rs.eval import metrics
from m2cache_rs.eval.windows import PIECE, WINDOW, Window, windows
from m2cache_rs.runtime.decoder import DECODE_BATCH, Floats, Ids

if TYPE_CHECKING:
    from m2cache_rs.runtime.session import Model


# Rows whose probabilities exist at a time: each takes 8 bytes an entry of the vocabulary, in ten arrays.
_ROWS = 4
_ARRAYS = 10
# What tokenising takes per character of a piece of the text.
_TOKENISING = 200


@dataclass
class Scores:
    """Sums over the predicted tokens; the properties are what is reported."""

    tokens: int = 0
    bytes: int = 0
    nats: float = 0.0
    kl: float = 0.0
    agree: int = 0
    rows: int = 0
    compared: bool = False

    @property
    def perplexity(self) -> float:
        """exp of the mean cross-entropy."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy in bits per byte of the text that was predicted."""
        return self.nats / math.log(2) / self.bytes

    def add(self, window: Window) -> None:
        """Counts a window's tokens."""
        self.tokens += len(window.targets)
        self.bytes += window.bytes
        self.rows += len(window.ids)

    def add_rows(self, predicted: metrics.Rows, reference: metrics.Rows | None, targets: Ids) -> None:
        """Adds some rows of log-probabilities, beside the reference's."""
        self.nats += float(metrics.cross_entropy(predicted, targets).sum())
        if reference is not None:
            self.kl += float(metrics.kl_divergence(reference, predicted).sum())
            self.agree += int(metrics.top1_equal(reference, predicted).sum())


def evaluate(
    model: Model,
    text: str,
    tokens: int | None = None,
    reference: Model | None = None,
    progress: Callable[[int], None] | None = None,
    window: int = WINDOW,
) -> dict[str, Any]:
    """Scores `model` on `text`, or on its first `tokens` tokens, through decode batches of 32.

    `reference` is the same store dense at 16 bits (or `model` itself where it is read so); without one the
    columns that compare are None. `progress` is told the tokens done. Memory is one batch of logits, whatever
    the text's length. In the result, `mean_kl` is in nats and `top1_agreement` from 0 to 1, both against the
    reference; `needed_bytes_per_token` is what one token touches at these levels, `read_bytes_per_token` what
    this run took from the store (a batch of 32 shares its reads). `window` is how many ids run together, if
    the model's context takes them. Raises UsageError where the text has no
    token to predict.
    """
    before, scores = model.stats(), Scores(compared=reference is not None)
    for part in windows(model, text, tokens, window):
        _score(scores, part, model, reference)
        scores.add(part)
        if progress is not None:
            progress(scores.tokens)
    if not scores.tokens:
        raise UsageError("the text has no token to predict: two tokens are the least")
    return _report(scores, model, model.stats()["read_bytes"] - before["read_bytes"])


def scoring_bytes(vocab: int, characters: int) -> int:
    """What `evaluate` takes beside its models, on a text of that many characters."""
    logits = DECODE_BATCH * vocab * 4
    return _ROWS * _ARRAYS * vocab * 8 + logits + _TOKENISING * min(characters, PIECE) + 4 * characters


def _score(scores: Scores, window: Window, model: Model, reference: Model | None) -> None:
    """Runs one window through both models, batch by batch."""
    done = 0
    for mine, other in zip(
        model.logits_by_batch(window.ids), _reference_batches(window, model, reference), strict=False
    ):
        rows = slice(max(window.given - 1 - done, 0), min(len(mine), len(window.ids) - 1 - done))
        targets = window.ids[done + rows.start + 1 : done + rows.stop + 1]
        done += len(mine)
        for at in range(0, len(targets), _ROWS):
            some = slice(rows.start + at, min(rows.start + at + _ROWS, rows.stop))
            predicted = metrics.log_softmax(mine[some])
            base = predicted if other is None else metrics.log_softmax(other[some])
            scores.add_rows(predicted, base if scores.compared else None, targets[at : at + _ROWS])


def _reference_batches(window: Window, model: Model, reference: Model | None) -> Iterator[Floats | None]:
    """The reference's logits; None where there is none, or where it is the model itself."""
    if reference is None or reference is model:
        return repeat(None)
    return reference.logits_by_batch(window.ids)


def _report(scores: Scores, model: Model, read: int) -> dict[str, Any]:
    compared = scores.compared
    return {
        "tokens": scores.tokens,
        "bytes": scores.bytes,
        "perplexity": scores.perplexity,
        "bits_per_byte": scores.bits_per_byte,
        "mean_kl": scores.kl / scores.tokens if compared else None,
        "top1_agreement": scores.agree / scores.tokens if compared else None,
        "needed_bytes_per_token": model.weights.token_bytes,
        "read_bytes_per_token": read / scores.rows,
    }
