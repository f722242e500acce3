"""The reference of sparse recipes by its definitions: what a set is, and what bands sum to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs.models import architecture_of

from tests.reference import sparse, tiny
from tests.reference.decoder import forward
from tests.reference.sums import Ordered
from tests.reference.weights import Quantised, uniform

INF, NAN = float("inf"), float("nan")
numbers = st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, INF, NAN])
rows = st.lists(numbers, min_size=1, max_size=12)
counts = st.tuples(*[st.integers(0, 5)] * 3)


def by_definition(scores: list[float]) -> list[int]:
    """Ids, the most important first."""
    key = lambda j: (not np.isnan(scores[j]), 0 if np.isnan(scores[j]) else -scores[j], j)  # noqa: E731
    return sorted(range(len(scores)), key=key)


@given(rows, counts)
def test_top_takes_the_highest_in_order(scores: list[float], wanted: tuple[int, int, int]) -> None:
    found = sparse.levels(np.array([scores], np.float32), {"top": list(wanted)})[0].tolist()
    ranked = by_definition(scores)
    expected = [0] * len(scores)
    bits = [16] * wanted[0] + [8] * wanted[1] + [4] * wanted[2]
    for neuron, level in zip(ranked, bits, strict=False):
        expected[neuron] = level
    assert found == expected


@given(rows, st.tuples(*[st.sampled_from([None, 0.5, 1.0, 2.0])] * 3), st.integers(0, 12))
def test_above_takes_the_finest_level_that_is_reached(
    scores: list[float], thresholds: tuple[float | None, ...], most: int
) -> None:
    cut = {"above": {"scores": list(thresholds), "most": most}}
    found = sparse.levels(np.array([scores], np.float32), cut)[0].tolist()
    kept = 0
    for neuron in by_definition(scores):
        levels = [
            bits
            for bits, one in zip((16, 8, 4), thresholds, strict=True)
            if one is not None and (scores[neuron] >= one or np.isnan(scores[neuron]))
        ]
        expected = levels[0] if levels and kept < most else 0
        kept += expected > 0
        assert found[neuron] == expected


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("int8", [True, False])
def test_all_neurons_in_one_band_are_the_dense_model(bits: int, int8: bool) -> None:
    arch, twin, ids = model(bits, int8)
    count = [arch.ffn if bits == level else 0 for level in sparse.LEVELS]
    for selector in ("plane", "oracle"):
        chosen = sparse.Recipe(selector, [{"top": count}])
        np.testing.assert_array_equal(forward(arch, twin, ids, chosen=chosen), forward(arch, twin, ids))


def test_a_token_s_set_is_its_own() -> None:
    arch, twin, ids = model(8, True)
    chosen = sparse.Recipe({"cascade": [200]}, [{"top": [20, 20, 40]}], factors(arch))
    whole = forward(arch, twin, ids, chosen=chosen)
    for count in (1, 5):
        alone = forward(arch, twin, ids[:count], length=len(ids), chosen=chosen)
        np.testing.assert_array_equal(alone, whole[:count])


def test_what_is_not_a_number_is_never_dropped() -> None:
    """And what a neuron that is not used would have given reaches nothing."""
    h = np.array([[0, 0, 0, NAN, 0]], np.float32)
    level = sparse.levels(np.abs(h), {"top": [1, 0, 0]})
    assert level[0].tolist() == [0, 0, 0, 16, 0]
    off = sparse.bands(np.zeros_like(level), lambda bits: h)
    assert all((one == 0).all() for one in off.values())


def model(bits: int, int8: bool) -> tuple[Any, Quantised, list[int]]:
    """Two chunks of neurons, of which most tokens use some."""
    config = tiny.CONFIG | {"intermediate_size": 300, "num_hidden_layers": 2}
    arch = architecture_of(config)[1]
    twin = Quantised(tiny.weights(arch, 5), uniform(bits), int8, sums=Ordered())
    return arch, twin, tiny.tokens(arch, 9, 5)


def factors(arch: Any) -> dict[int, sparse.Factors]:
    """Of random numbers."""
    rng = np.random.default_rng(3)

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) / 8).astype(np.float32)

    return {
        layer: sparse.Factors(
            normal(8, arch.hidden), normal(arch.ffn, 8), normal(arch.ffn), abs(normal(arch.ffn)), 8
        )
        for layer in range(arch.layers)
    }
