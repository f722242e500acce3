"""What only a run would meet: numbers that a sound manifest gives and no model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import Model
from m2cache_rs.errors import M2CacheError, StoreError, UnsupportedError

from tests.attacks import forge

LONG = {"type": "longrope", "theta": 1e4, "original_max_position_embeddings": 2}


@pytest.mark.parametrize(
    ("rope", "error", "message"),
    [
        ({"type": "none", "theta": 1e4}, UnsupportedError, "rope type 'none' is not supported"),
        ({"type": "default", "theta": 0}, StoreError, "rope.theta is 0"),
        ({"type": "default", "theta": -1e4}, StoreError, "rope.theta is -10000.0"),
        ({"type": "linear", "theta": 1e4}, StoreError, "rope.factor"),
        ({"type": "linear", "theta": 1e4, "factor": 0}, StoreError, "rope.factor is 0"),
        ({"type": "linear", "theta": 1e4, "factor": []}, StoreError, r"rope.factor is \[\]"),
        ({"type": "yarn", "theta": 1e4, "factor": 2.0}, StoreError, "rope.original_max_position_embeddings"),
        (LONG | {"short_factor": [1.0], "long_factor": [1.0]}, StoreError, "a list of 18 numbers"),
        (LONG | {"short_factor": [0] * 18, "long_factor": [1] * 18}, StoreError, "numbers above zero"),
        ({"type": "linear", "theta": 1e4, "factor": 1e-320}, UnsupportedError, "not finite"),
    ],
)
def test_a_rope_that_cannot_turn(
    store: Path, rope: dict[str, Any], error: type[M2CacheError], message: str
) -> None:
    forge.edit_manifest(store, ("architecture.rope", rope))
    with pytest.raises(error, match=message):
        Model.open(store, threads=1)


def test_a_plane_that_is_not_stored(tmp_path: Path) -> None:
    store = forge.write(tmp_path / "base.m2c", planes="base")
    for precision in (8, 16, "ffn=8"):
        with pytest.raises(M2CacheError, match=r"plane '(mid|low)'"):
            Model.open(store, precision=precision, threads=1)
