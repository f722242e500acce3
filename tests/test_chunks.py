"""Partial sums of chunks: what devices will share adds up to the bits of the whole (docs/design.md, 5b)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs import Model
from m2cache_rs.runtime.decoder import Floats

from tests.reference import store as stored

GROUPS, CHUNKS = 2, 2  # of the small model: 2 KV heads, 300 neurons


def spans(count: int, cut: bool) -> list[tuple[int, int]]:
    return [(0, 1), (1, count)] if cut else [(0, count)]


def folded(partials: list[Floats], bias: Floats) -> Floats:
    total = np.broadcast_to(bias, partials[0].shape[1:]).copy()
    for chunk in np.concatenate(partials):
        total += chunk
    return total


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.booleans(), bits=st.sampled_from([4, 8, 16]), rows=st.integers(1, 9), seed=st.integers(0, 99))
def test_partial_sums_add_up_to_the_whole(small: Path, cut: bool, bits: int, rows: int, seed: int) -> None:
    x = np.random.RandomState(seed).standard_normal((rows, 72)).astype(np.float32)
    at = np.arange(rows, dtype=np.uint32)
    vectors = stored.weights(small)
    with (
        Model.open(small, precision=bits) as model,
        model.sequence(rows) as one,
        model.sequence(rows) as two,
        model.turn() as backend,
    ):
        whole = backend.attention(1, x, np.full(rows, one, np.uint32), at)
        ids = np.full(rows, two, np.uint32)
        parts = [backend.attention(1, x, ids, at, span) for span in spans(GROUPS, cut)]
        np.testing.assert_array_equal(folded(parts, vectors["1.bias.o"]), whole)
        parts = [backend.ffn(1, x, span) for span in spans(CHUNKS, cut)]
        np.testing.assert_array_equal(folded(parts, np.zeros(72, np.float32)), backend.ffn(1, x))
