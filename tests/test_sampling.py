"""Sampling is a pure function: its filters against plain definitions, its draws against the distribution."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs.config import Sampling
from m2cache_rs.errors import NumericsError
from m2cache_rs.runtime.sampling import _philox, candidates, sample, uniform
from numpy.typing import NDArray

# Few different values: ties everywhere.
rows = st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=1, max_size=40).map(
    lambda v: np.array(v, np.float32)
)
settings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.2, 0.7, 1.0, 3.0]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.3]),
)


def kept_plainly(row: NDArray[np.float64], chosen: Sampling) -> list[int]:
    """The definition, one filter behind the other, without any shortcut."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    if chosen.top_k:
        order = order[: chosen.top_k]
    scaled = row / chosen.temperature
    weights = {i: np.exp(scaled[i] - scaled.max()) for i in order}
    total, before, nucleus = sum(weights.values()), 0.0, []
    for i in order:
        if not nucleus or chosen.top_p == 1 or before < chosen.top_p * total:
            nucleus.append(i)
        before += weights[i]
    best = max(weights[i] for i in nucleus)
    return sorted(i for i in nucleus if weights[i] >= chosen.min_p * best)


@given(rows, settings)
def test_filters_keep_what_their_definitions_keep(row: NDArray[np.float32], chosen: Sampling) -> None:
    ids, weights = candidates(row.astype(np.float64), chosen)
    assert ids.tolist() == kept_plainly(row.astype(np.float64), chosen)
    assert (weights > 0).all()


@given(rows, settings, st.integers(0, 2**64 - 1), st.integers(0, 2**32), st.data())
def test_pure_and_among_the_candidates(
    row: NDArray[np.float32], chosen: Sampling, seed: int, position: int, data: st.DataObject
) -> None:
    history = data.draw(st.lists(st.integers(0, len(row) - 1), max_size=8))
    before = row.copy()
    first = sample(row, chosen, seed, position, history)
    assert first == sample(row, chosen, seed, position, list(history))
    assert (row == before).all()
    assert 0 <= first < len(row)


@given(rows)
def test_greedy_takes_the_lowest_of_the_best(row: NDArray[np.float32]) -> None:
    assert sample(row, Sampling(), 0, 0) == row.tolist().index(row.max())


@given(rows, st.integers(0, 1000))
def test_top_1_is_greedy(row: NDArray[np.float32], seed: int) -> None:
    assert sample(row, Sampling(temperature=1.0, top_k=1), seed, 3) == sample(row, Sampling(), seed, 3)


def test_repetition_penalty_divides_positive_and_multiplies_negative_scores() -> None:
    row = np.array([2.0, 1.9, -1.0], np.float32)
    assert sample(row, Sampling(repetition_penalty=1.5), 0, 0, [0]) == 1
    assert (
        sample(row, Sampling(repetition_penalty=1.5), 0, 0, [0, 0, 0]) == 1
    )  # once, however often it was said
    low = np.array([-1.0, -1.2, -9.0], np.float32)
    assert sample(low, Sampling(repetition_penalty=1.5), 0, 0, [0]) == 1


def test_draws_follow_the_distribution() -> None:
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)
    drawn = [sample(row, Sampling(temperature=1.0), 7, position) for position in range(4000)]
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    # Four standard deviations of a share of 0.5 in 4000 draws.
    assert np.abs(shares - [0.5, 0.3, 0.15, 0.05]).max() < 4 * np.sqrt(0.25 / 4000)


def test_the_generator_is_philox_4x64_10() -> None:
    # The first known-answer vector of Random123 (kat_vectors: philox4x64 10, all zero).
    assert _philox(0, 0) == 0x16554D9ECA36314C
    assert uniform(0, 2**64 - 1) != uniform(0, 0)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64))
def test_the_generator_is_numpys(seed: int, position: int) -> None:
    assert _philox(seed, position + 1) == int(np.random.Philox(key=seed, counter=position).random_raw())


def test_sampling_loads_no_generator() -> None:
    """numpy.random takes 6 MiB, which every budget would have to hold ready."""
    code = (
        "import sys, numpy as np; from m2cache_rs.config import Sampling\n"
        "from m2cache_rs.runtime.sampling import sample\n"
        "sample(np.zeros(9, np.float32), Sampling(temperature=0.8, top_p=0.9, top_k=4), 1, 2)\n"
        "assert 'numpy.random' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_draws_are_the_same_on_every_machine_and_version() -> None:
    drawn = [sample(np.zeros(1000, np.float32), Sampling(temperature=1.0), 42, p) for p in range(6)]
    assert drawn == [820, 368, 876, 66, 986, 967]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error(broken: float) -> None:
    with pytest.raises(NumericsError, match="position 5"):
        sample(np.array([0.0, broken], np.float32), Sampling(), 0, 5)


@pytest.mark.parametrize(
    "chosen",
    [Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05), Sampling(temperature=1.0, top_p=0.9)],
)
def test_a_large_vocabulary_keeps_what_the_definition_keeps(chosen: Sampling) -> None:
    row = np.random.default_rng(1).normal(0, 3, 20_000)
    ids, _ = candidates(row, chosen)
    assert ids.tolist() == kept_plainly(row, chosen)
