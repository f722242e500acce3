"""Statistics of neurons against brute force on small arrays, and on a model through its store."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs import Model
from m2cache_rs.errors import NumericsError, UsageError
from m2cache_rs.eval.windows import WINDOW
from m2cache_rs.predict import collect
from m2cache_rs.predict.ranks import active_ranks, places_of, ranks
from m2cache_rs.predict.statistics import LayerStatistics
from m2cache_rs.predict.tails import Tail
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.neurons import BANDS, SHARES, LayerProfile

from tests.stores import EXAMPLE

Array = np.ndarray[Any, Any]
TEXT = (EXAMPLE / "README.md").read_text() * 3


def activity(tokens: int, neurons: int, seed: int, zeros: float = 0.3) -> Array:
    """|h| with ties and exact zeros."""
    rng = np.random.default_rng(seed)
    h = np.abs(rng.standard_normal((tokens, neurons))).astype(np.float32).round(1)
    h[rng.random(h.shape) < zeros] = 0
    return h


def top(row: Array, count: int) -> list[int]:
    """The highest by score, ties by lower id."""
    return sorted(range(len(row)), key=lambda j: (-row[j], j))[:count]


def brute(h: Array, plane: Array, starts: set[int]) -> dict[str, Any]:
    """The statistics, set by set; `starts`: tokens that follow none."""
    neurons = h.shape[1]
    found: dict[str, Any] = {name: [] for name in ("frequency", "overlap", "band_overlap", "recall", "mass")}
    for share in SHARES:
        places = places_of(Shares(share, BANDS), neurons)
        (_, k) = places[0]
        sets = [[j for j in top(row, k) if row[j] > 0] for row in h]
        guesses = [set(top(row, k)) for row in plane]
        found["frequency"].append([sum(j in one for one in sets) for j in range(neurons)])
        found["recall"].append(
            sum(len(guess & set(one)) for one, guess in zip(sets, guesses, strict=True)) / sum(map(len, sets))
        )
        held = sum(
            sum(row[j] for j in guess & set(one)) for row, one, guess in zip(h, sets, guesses, strict=True)
        )
        found["mass"].append(held / sum(row[one].sum() for row, one in zip(h, sets, strict=True)))
        shared = []
        for first, end in places:
            bands = [{j for j in top(row, end)[first:] if row[j] > 0} for row in h]
            pairs = [(bands[t], bands[t - 1]) for t in range(len(h)) if t not in starts]
            whole = sum(len(now) for now, _ in pairs)
            shared.append(sum(len(now & before) for now, before in pairs) / whole if whole else 1.0)
        found["overlap"].append(shared[0])
        found["band_overlap"].append(shared[1:])
    return found


def streamed(h: Array, plane: Array, starts: set[int], cuts: list[int]) -> LayerProfile:
    statistics = LayerStatistics(h.shape[1])
    edges = sorted({0, len(h), *starts, *(cut for cut in cuts if cut < len(h))})
    for first, end in pairwise(edges):
        if first in starts:
            statistics.begin()
        statistics.add(h[first:end], plane[first:end])
    return statistics.profile()


@given(
    tokens=st.integers(2, 12),
    neurons=st.integers(1, 40),
    seed=st.integers(0, 999),
    cuts=st.lists(st.integers(1, 11), max_size=3),
    start=st.integers(1, 11),
)
def test_statistics_are_the_brute_force(
    tokens: int, neurons: int, seed: int, cuts: list[int], start: int
) -> None:
    """However the tokens come in batches."""
    h = activity(tokens, neurons, seed)
    h[:, 0] += 0.1
    plane = np.abs(h + np.random.default_rng(seed).normal(0, 0.3, h.shape)).astype(np.float32)
    starts = {0, start} if start < tokens else {0}
    found, expected = streamed(h, plane, starts, cuts), brute(h, plane, starts)
    assert [list(row) for row in found.frequency] == expected["frequency"]
    np.testing.assert_allclose(found.overlap, expected["overlap"], rtol=1e-9)
    np.testing.assert_allclose(found.band_overlap, expected["band_overlap"], rtol=1e-9)
    np.testing.assert_allclose(found.plane_recall, expected["recall"], rtol=1e-9)
    np.testing.assert_allclose(found.plane_mass, expected["mass"], rtol=1e-5)
    assert found.nonzero == pytest.approx(np.count_nonzero(h) / h.size)


def test_skew_is_what_the_hottest_tenth_holds() -> None:
    h = np.tile(np.arange(1, 21, dtype=np.float32), (4, 1))
    found = streamed(h, h, {0}, [])
    assert found.skew_mass == pytest.approx((19 + 20) / h[0].sum())
    # The same tenth, 2 of 20, is in every set: of 14, of 10, of 7, of 5 and of 2.
    assert found.skew_members == pytest.approx([2 / 14, 2 / 10, 2 / 7, 2 / 5, 1])
    assert found.overlap == (1,) * 5
    assert found.plane_recall == (1,) * 5


@given(st.integers(1, 50), st.integers(0, 99))
def test_ranks_are_a_stable_sort(neurons: int, seed: int) -> None:
    h = activity(5, neurons, seed)
    expected = np.argsort(np.argsort(-h, axis=1, kind="stable"), axis=1)
    np.testing.assert_array_equal(ranks(h), expected)
    np.testing.assert_array_equal(active_ranks(h), np.where(h > 0, expected, neurons))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_a_threshold_cuts_the_share_it_says(scale: float) -> None:
    """Within half of what a bin holds: below 0.3 % of all scores of a smooth distribution."""
    scores = np.abs(np.random.default_rng(5).standard_normal((500, 200)) * scale).astype(np.float32)
    tail = Tail(200)
    for first in range(0, 500, 7):
        tail.add(scores[first : first + 7])
    for share in SHARES:
        cut = tail.threshold(share)
        counts = np.count_nonzero(scores >= np.float32(cut.score), axis=1)
        assert cut.share == pytest.approx(counts.mean() / 200)
        assert cut.share == pytest.approx(share, abs=0.003)
        assert np.float32(cut.score) == cut.score, "the core compares in float32"
        assert counts.mean() <= cut.most <= counts.max()
        assert np.mean(counts > cut.most) <= 0.01


def test_a_threshold_leaves_exact_zeros_below() -> None:
    h = activity(200, 50, seed=1, zeros=0.8)
    tail = Tail(50)
    tail.add(h)
    for share in (0.7, 0.5, 0.25):
        cut = tail.threshold(share)
        assert cut.share == pytest.approx(np.count_nonzero(h) / h.size)
        assert 0 < cut.score <= h[h > 0].min()
    silent = Tail(50)
    silent.add(np.zeros((3, 50), np.float32))
    assert (silent.threshold(0.5).share, silent.threshold(0.5).most) == (0, 1)


def test_scores_outside_of_the_bins_are_in_the_outermost() -> None:
    tail = Tail(4)
    tail.add(np.array([[1e-30, 1e-20, 1e20, 3e38]], np.float32))
    assert tail.threshold(0.5).share == 0.5


def test_a_text_runs_as_decode_tokens_and_its_rows_are_kept(tale: Path, tmp_path: Path) -> None:
    """Statistics are those of |h| that the engine gives for the rows before the FFN, window by window."""
    with Model.open(tale, kv="f32") as model:
        parts = collect.texts(model, TEXT, WINDOW + 40)
        rows, arch, told = collect.rows_of(parts), model.architecture, []
        assert [len(part.ids) for part in parts] == [WINDOW, rows - WINDOW]
        with collect.Spool(tmp_path, arch.layers, rows, arch.hidden) as spool:
            collector = collect.Collector(model, 16, spool)
            collector.run(parts, told.append)
            assert told[-1] == rows
            assert model.stats()["tokens"] == {"prompt": 0, "decode": rows, "draft": 0}
            for layer in (0, arch.layers - 1):
                x = spool.read(layer, 0, rows)
                both = [
                    np.concatenate(
                        [collect.neurons(model, layer, x[at : at + 32], bits) for at in range(0, rows, 32)]
                    )
                    for bits in (16, 4)
                ]
                expected = streamed(*both, {0, WINDOW}, [])
                found = collector.layers[layer].profile()
                assert found.frequency == expected.frequency
                assert found.overlap == expected.overlap
                assert found.thresholds == expected.thresholds
    assert list(tmp_path.iterdir()) == []


def test_texts_that_teach_nothing(tale: Path) -> None:
    with Model.open(tale) as model:
        for text in ("", "a"):
            with pytest.raises(UsageError, match="fewer than two tokens"):
                collect.texts(model, text, None)
        with pytest.raises(UsageError, match="at least 2 are needed"):
            collect.texts(model, TEXT, 1)


def test_neurons_that_are_not_finite_are_named(tale: Path) -> None:
    with Model.open(tale) as model:
        x = np.full((1, model.architecture.hidden), np.nan, np.float32)
        with pytest.raises(NumericsError, match="layer 2 has neurons that give no finite number at 4 bits"):
            collect.neurons(model, 2, x, 4)


def test_rows_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"cannot be kept in {tmp_path / 'none'}.*fewer --tokens take less"):
        collect.Spool(tmp_path / "none", 1, 1, 1)
    with pytest.raises(OSError, match=r"cannot be kept in .*fewer --tokens"):
        collect.Spool(tmp_path, 1, 1 << 40, 1 << 10)
    assert list(tmp_path.iterdir()) == []
