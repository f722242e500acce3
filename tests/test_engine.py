"""What the engine's face refuses, behind the checks of the public Model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from m2cache_rs import Model, UsageError

from tests.stores import SMALL


def test_rows_need_as_many_sequences_and_positions(small: Path) -> None:
    x = np.zeros((3, SMALL["hidden_size"]), np.float32)
    with Model.open(small) as model, model.sequence(3) as one:
        for sequences, positions in ((2, 3), (3, 2), (4, 3)):
            ids = np.full(sequences, one, np.uint32)
            with pytest.raises(UsageError, match="3 rows need as many sequences and positions"):
                model.backend.attention(0, x, ids, np.arange(positions, dtype=np.uint32))


def test_tokens_lie_in_the_vocabulary(small: Path) -> None:
    last = SMALL["vocab_size"] - 1
    with Model.open(small) as model:
        assert np.isfinite(model.backend.embed(np.array([0, last], np.uint32))).all()
        with pytest.raises(UsageError, match=f"token {last + 1} lies outside the vocabulary of {last + 1}"):
            model.backend.embed(np.array([0, last + 1], np.uint32))
