"""What the engine's face refuses, behind the checks of the public Model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from m2cache_rs import Model, UsageError

from tests.stores import SMALL


def test_rows_need_as_many_sequences_and_positions(small: Path) -> None:
    x = np.zeros((3, SMALL["hidden_size"]), np.float32)
    with Model.open(small) as model, model.sequence(3) as one, model.turn() as backend:
        for sequences, positions in ((2, 3), (3, 2), (4, 3)):
            ids = np.full(sequences, one, np.uint32)
            with pytest.raises(UsageError, match="3 rows need as many sequences and positions"):
                backend.attention(0, x, ids, np.arange(positions, dtype=np.uint32))


def test_tokens_lie_in_the_vocabulary(small: Path) -> None:
    last = SMALL["vocab_size"] - 1
    with Model.open(small) as model, model.turn() as backend:
        assert np.isfinite(backend.embed(np.array([0, last], np.uint32))).all()
        with pytest.raises(UsageError, match=f"token {last + 1} lies outside the vocabulary of {last + 1}"):
            backend.embed(np.array([0, last + 1], np.uint32))


@pytest.mark.parametrize(("rows", "precision"), [(1, 4), (5, 8), (40, 16)])
def test_layers_are_their_branches_added(small: Path, rows: int, precision: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, SMALL["hidden_size"])).astype(np.float32)
    positions = np.arange(rows, dtype=np.uint32)
    with (
        Model.open(small, precision=precision) as model,
        model.sequence(rows) as one,
        model.sequence(rows) as two,
        model.turn() as backend,
    ):
        by_hand = x.copy()
        for layer in range(SMALL["num_hidden_layers"]):
            by_hand += backend.attention(layer, by_hand, np.full(rows, one, np.uint32), positions)
            by_hand += backend.ffn(layer, by_hand)
        ids = np.full(rows, two, np.uint32)
        together = backend.layers((0, SMALL["num_hidden_layers"]), x, ids, positions)
    np.testing.assert_array_equal(together.view(np.uint32), by_hand.view(np.uint32))


def test_layers_must_be_those_of_the_model(small: Path) -> None:
    x, one = np.zeros((1, SMALL["hidden_size"]), np.float32), np.zeros(1, np.uint32)
    with Model.open(small) as model, model.turn() as backend:
        for span in ((1, 0), (0, SMALL["num_hidden_layers"] + 1)):
            with pytest.raises(UsageError, match="of a model with"):
                backend.engine.layers(span, x, backend.kv, one, one)
