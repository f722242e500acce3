"""Ridge regression against numpy's least squares, and what it guesses of heads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from m2cache_rs.predict.heads import SHARES, fit, recall
from m2cache_rs.predict.ridge import Ridge


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(2, 60), width=st.integers(1, 40), targets=st.integers(1, 5),
    penalty=st.floats(1e-2, 1e3), seed=st.integers(0, 999),
)  # fmt: skip
def test_it_is_least_squares_with_the_penalty_as_rows(
    rows: int, width: int, targets: int, penalty: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((rows, width)) + 1, rng.standard_normal((rows, targets)) - 2
    line = Ridge(x, y).line(penalty)
    # An intercept is a column of ones without a penalty.
    top = np.hstack([x, np.ones((rows, 1))])
    below = np.hstack([np.sqrt(penalty) * np.eye(width), np.zeros((width, 1))])
    wanted = np.linalg.lstsq(np.vstack([top, below]), np.vstack([y, np.zeros((width, targets))]), rcond=None)[
        0
    ]
    np.testing.assert_allclose(line.weight, wanted[:-1].T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(line.bias, wanted[-1], rtol=1e-6, atol=1e-8)


def test_lines_are_found_again() -> None:
    rng = np.random.default_rng(1)
    weight, x = rng.standard_normal((8, 20)), rng.standard_normal((200, 20)).astype(np.float32)
    worth = (np.abs(weight).sum() + x @ weight.T).astype(np.float32)
    line, recalls = fit(x, worth)
    np.testing.assert_allclose(line.weight, weight, atol=0.02)
    assert recalls == pytest.approx([1] * len(SHARES), abs=1e-3)


def test_what_tells_nothing_is_guessed_by_its_mean() -> None:
    """Inputs without a difference, and a single token."""
    worth = np.tile(np.array([3, 1, 2, 4], np.float32), (10, 1))
    line, recalls = fit(np.zeros((10, 6), np.float32), worth)
    np.testing.assert_allclose(line.guess(np.ones((1, 6)))[0], worth[0])
    assert recalls == [1, 1, 1]
    assert fit(np.ones((1, 6), np.float32), worth[:1])[1] == [1, 1, 1]


def test_recall_is_the_share_of_the_worth() -> None:
    worth = np.array([[4.0, 3, 2, 1]])
    assert recall(np.array([[1.0, 2, 3, 4]]), worth) == [6 / 9, 3 / 7, 1 / 4]
    assert recall(worth, np.zeros((1, 4))) == [1, 1, 1]
