"""Scores recipes of a store on a text: perplexity, and the distance from the same store dense at 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.errors import UsageError
from m2cache_rs.eval import metrics
from m2cache_rs.eval.scores import Scores
from m2cache_rs.eval.windows import PIECE, WINDOW, Window, windows
from m2cache_rs.runtime.cost import ffn_cost, touched
from m2cache_rs.runtime.counters import since
from m2cache_rs.runtime.decoder import Floats

if TYPE_CHECKING:
    from m2cache_rs.eval.gguf import GgufModel
    from m2cache_rs.runtime.session import Model


# Rows whose probabilities exist at a time: each takes 8 bytes an entry of the vocabulary, in ten arrays.
_ROWS = 4
_ARRAYS = 10
# What tokenising takes per character of a piece of the text.
_TOKENISING = 200


def evaluate(
    model: Model,
    text: str,
    tokens: int | None = None,
    reference: Model | None = None,
    progress: Callable[[int], None] | None = None,
    window: int = WINDOW,
) -> dict[str, Any]:
    """Scores `model` on `text`, or on its first `tokens` tokens, through decode batches of 32.

    `reference` is the same store dense at 16 bits (or `model` itself where it is read so); without one what
    compares is None. `progress` is told the tokens done. Memory is one batch of logits, whatever the text's
    length. `window` is how many ids run together, if the model's context takes them.

    In the result `mean_kl` is in nats with its bootstrap 95 % `kl_interval` (blocks of 32 tokens are
    resampled; None of fewer than eight), `top1_agreement` from 0 to 1, both against the reference.
    `needed_bytes_per_token` is what one token touches of all weights, by decode semantics: each token counted
    as if it were alone. Of it `ffn_bytes_per_token` is of the FFN, `bits_per_weight` 8 times that by its
    weights, `active` the shares of neurons at 16, 8 and 4 bits; `attention_bytes_per_token` is of q, k, v and
    o. `read_bytes_per_token` is what this run took from the store: a batch of 32 shares its reads, and models
    that share an open store (`Model.serving`) find what another one has read. Raises UsageError where the
    text has no token to predict.
    """
    return evaluate_all([model], text, tokens, reference, progress, window)[0]


def evaluate_all(
    models: Sequence[Model],
    text: str,
    tokens: int | None = None,
    reference: Model | None = None,
    progress: Callable[[int], None] | None = None,
    window: int = WINDOW,
    others: Sequence[GgufModel] = (),
) -> list[dict[str, Any]]:
    """The same of several models of one store, batch by batch, so that they share the reference's logits.

    `progress` is told the tokens that all models have done. Memory is a batch of logits for each of them.
    Results of `others`, which read the same ids, come last; what they read of their files is not known.
    """
    before = [model.stats() for model in models]
    everyone: list[Model | GgufModel] = [*models, *others]
    all_scores, rows = [Scores(compared=reference is not None) for _ in everyone], 0
    for part in windows(models[0], text, tokens, window):
        _score(all_scores, part, everyone, reference)
        rows += len(part.ids)
        if progress is not None:
            progress(sum(scores.tokens for scores in all_scores))
    if not rows:
        raise UsageError("the text has no token to predict: two tokens are the least")
    spent = [costs(model, first, rows) for model, first in zip(models, before, strict=True)]
    spent += [one.costs() for one in others]
    return [{**scores.to_dict(), **one} for scores, one in zip(all_scores, spent, strict=True)]


def scoring_bytes(vocab: int, characters: int, models: int = 1) -> int:
    """What `evaluate_all` takes beside its models, on a text of that many characters."""
    logits = DECODE_BATCH * vocab * 4 * models
    return (
        _ROWS * (_ARRAYS + models) * vocab * 8
        + logits
        + _TOKENISING * min(characters, PIECE)
        + 4 * characters
    )


def _score(
    all_scores: Sequence[Scores],
    window: Window,
    models: Sequence[Model | GgufModel],
    reference: Model | None,
) -> None:
    """Runs one window through all models, batch by batch."""
    done = 0
    for batches in zip(*_batches(window, models, reference), strict=True):
        count = len(batches[0])
        rows = slice(max(window.given - 1 - done, 0), min(count, len(window.ids) - 1 - done))
        done += count
        for scores in all_scores:
            scores.begin_block()
        for at in range(rows.start, rows.stop, _ROWS):
            some = slice(at, min(at + _ROWS, rows.stop))
            targets = window.ids[done - count + some.start + 1 : done - count + some.stop + 1]
            predicted = [metrics.log_softmax(one[some]) for one in batches]
            other = predicted[_place(models, reference)] if reference is not None else None
            for scores, mine in zip(all_scores, predicted, strict=False):
                scores.add_rows(mine, other, targets)
    for scores in all_scores:
        scores.bytes += window.bytes


def _batches(
    window: Window, models: Sequence[Model | GgufModel], reference: Model | None
) -> Iterator[Iterator[Floats]]:
    """Logits of the models, and of the reference behind them if it is none of them."""
    yield from (model.logits_by_batch(window.ids) for model in models)
    if reference is not None and reference not in models:
        yield reference.logits_by_batch(window.ids)


def _place(models: Sequence[Model | GgufModel], reference: Model) -> int:
    """Where the reference's logits are among all."""
    return models.index(reference) if reference in models else -1


def costs(model: Model, before: dict[str, Any], rows: int) -> dict[str, Any]:
    """What `model` touched and read in `rows` decode tokens since `before` (see `evaluate`)."""
    after = model.stats()
    counted = {name: since(after[name], before[name]) for name in ("ffn", "attention", "read_bytes")}
    cost, parts = ffn_cost(counted["ffn"], model.architecture), touched(counted, model.weights)
    if cost is None or parts is None:
        raise UsageError("no decode token was run")
    return {
        "needed_bytes_per_token": sum(parts.values()),
        "attention_bytes_per_token": parts["attn"],
        "ffn_bytes_per_token": parts["ffn"],
        "bits_per_weight": cost.bits_per_weight,
        "active": list(cost.active),
        "read_bytes_per_token": counted["read_bytes"] / rows,
    }
