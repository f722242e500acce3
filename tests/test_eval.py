"""Scoring a store: the metrics by their definitions, the windows, and what `evaluate` reports."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs import Model, NumericsError, UsageError
from m2cache_rs.eval import metrics
from m2cache_rs.eval.run import evaluate
from m2cache_rs.eval.windows import windows
from numpy.typing import NDArray

TEXT = (
    "In the beginning God created the heaven and the earth.\n"
    "The population of the country is 1,200,000 (July 1992), growth rate 1.9%.\n"
    "“Curiouser and curiouser!” cried Alice – naïve as ever, 日本.\n"
) * 12

logits = st.integers(0, 2**31).map(
    lambda seed: np.random.default_rng(seed).normal(0, 4, (5, 9)).astype(np.float32)
)


@given(logits, logits)
def test_metrics_are_their_definitions(first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    p, q = (np.exp(rows.astype(np.float64)) for rows in (first, second))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    a, b = metrics.log_softmax(first), metrics.log_softmax(second)
    targets = np.array([0, 8, 3, 3, 1], np.uint32)
    np.testing.assert_allclose(np.exp(a).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(
        metrics.cross_entropy(a, targets), [-np.log(p[i, t]) for i, t in enumerate(targets)]
    )
    np.testing.assert_allclose(
        metrics.kl_divergence(a, b), (p * np.log(p / q)).sum(axis=1), rtol=1e-9, atol=1e-12
    )
    assert metrics.top1_equal(a, b).tolist() == (first.argmax(1) == second.argmax(1)).tolist()
    assert (metrics.kl_divergence(a, a) == 0).all()


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(NumericsError):
        metrics.log_softmax(np.array([[0, np.nan]], np.float32))


def test_windows_cover_the_text(tale: Path) -> None:
    text = "In the beginning God created the heaven and the earth.\n" * 80
    with Model.open(tale) as model:
        found = list(windows(model, text))
        ids = model.tokenizer.encode(text, add_special_tokens=False).ids
    assert [one for window in found for one in window.ids.tolist()] == ids
    assert len(found) > 1
    assert [len(window.ids) for window in found[:-1]] == [512] * (len(found) - 1)
    first = [len(model.decode([int(window.ids[0])]).encode()) for window in found]
    assert sum(window.bytes for window in found) == len(text) - sum(first)


@pytest.mark.parametrize("limit", [2, 511, 512, 514])
def test_windows_keep_to_the_limit(tale: Path, limit: int) -> None:
    with Model.open(tale) as model:
        assert sum(len(window.ids) for window in windows(model, TEXT, limit)) == limit


def test_special_tokens_begin_every_window(tale: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    with Model.open(tale) as model:
        begun = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        model.tokenizer.post_processor = begun  # type: ignore[assignment]
        found = list(windows(model, TEXT))
        ids = model.tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert all(window.ids[0] == 0 and window.given == 1 and len(window.ids) <= 512 for window in found)
    assert [one for window in found for one in window.targets.tolist()] == ids
    assert sum(window.bytes for window in found) == len(TEXT.encode())


def test_scores_are_those_of_the_logits(tale: Path) -> None:
    with Model.open(tale, precision=8) as model, Model.open(tale, precision=16) as best:
        report = evaluate(model, TEXT, 200, best)
        ids = model.tokenizer.encode(TEXT).ids[:200]
        mine, other = (metrics.log_softmax(one.logits(ids)[:-1]) for one in (model, best))
        nats = metrics.cross_entropy(mine, np.array(ids[1:], np.uint32))
        text = len(model.decode(ids).encode()) - len(model.decode(ids[:1]).encode())
    assert report["tokens"] == 199
    assert report["bytes"] == text
    assert math.isclose(report["perplexity"], math.exp(nats.mean()), rel_tol=1e-9)
    assert math.isclose(report["bits_per_byte"], nats.sum() / math.log(2) / text, rel_tol=1e-9)
    assert math.isclose(report["mean_kl"], metrics.kl_divergence(other, mine).mean(), rel_tol=1e-6)
    assert math.isclose(report["top1_agreement"], metrics.top1_equal(other, mine).mean())
    assert 0 < report["mean_kl"] < 3e-3


def test_at_16_bits_the_reference_is_the_model_itself(tale: Path) -> None:
    with Model.open(tale, precision=16) as model:
        report = evaluate(model, TEXT, 64, model)
    assert report["mean_kl"] == 0
    assert report["top1_agreement"] == 1


def test_without_a_reference_nothing_is_compared(tale_mid: Path) -> None:
    with Model.open(tale_mid) as model:
        report = evaluate(model, TEXT, 64)
    assert report["mean_kl"] is None
    assert report["top1_agreement"] is None


def test_needed_bytes_are_the_records_of_the_levels(tale: Path) -> None:
    found = {}
    for bits in (4, 8, 16):
        with Model.open(tale, precision=bits) as model:
            found[bits] = model.weights.token_bytes
    # Records at hidden 256: 144 (of which 16 are scales), 128 and 256 bytes, whatever they are stored beside.
    attn, neurons, embed, layers = 768, 768, 4096, 6
    records = layers * (attn + 3 * neurons) + embed + 1
    base, mid, low = (records * size for size in (144, 128, 256))
    assert found == {4: base, 8: base + mid, 16: base + mid + low}


def test_read_bytes_are_what_a_small_cache_had_to_read(tale: Path) -> None:
    with Model.open(tale, precision=4, cache="256KiB") as model:
        report = evaluate(model, TEXT, 128)
        reads = model.stats()["read_bytes"]
    assert math.isclose(report["read_bytes_per_token"] * 128, reads)
    # Batches of 32 share their reads, and the cache holds a part.
    assert report["read_bytes_per_token"] < report["needed_bytes_per_token"] / 16


@pytest.mark.parametrize(("text", "tokens"), [("", None), ("a", None), (TEXT, 1), (TEXT, 0)])
def test_a_text_with_nothing_to_predict_is_refused(tale: Path, text: str, tokens: int | None) -> None:
    with Model.open(tale) as model, pytest.raises(UsageError):
        evaluate(model, text, tokens)


def test_progress_counts_up_to_the_tokens(tale: Path) -> None:
    seen: list[int] = []
    with Model.open(tale, precision=4) as model:
        report = evaluate(model, TEXT, 700, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == report["tokens"]
    assert len(seen) == 2


def test_on_held_out_text_a_word_costs_what_training_said(shared: Path, tale: Path) -> None:
    """training.json of the model: 3.879 nats per token and 1.807 bits per byte over all held-out text."""
    data = (shared / "data/text/bible.txt").read_bytes()
    with Model.open(tale, precision=8) as model:
        report = evaluate(model, data[len(data) * 95 // 100 :].decode(), 2000)
    assert 1.0 < report["bits_per_byte"] < 1.9
