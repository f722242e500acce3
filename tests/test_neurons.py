"""What every neuron gives, at any level up to the recipe's: what profiles and predictors are made from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from m2cache_rs import Model, UsageError
from m2cache_rs.models import Architecture
from m2cache_rs.runtime.decoder import Floats

from tests.engines import Json, needed, opened, recipe
from tests.reference import decoder
from tests.reference import store as stored
from tests.reference.sums import Ordered
from tests.reference.weights import Quantised, uniform
from tests.stores import SMALL

SPARSE: Json = {"sparse": {"selector": "plane", "cuts": [{"top": [0, 3, 0]}]}}
LAYER, FFN = 1, SMALL["intermediate_size"]


def rows(count: int) -> Floats:
    return np.random.default_rng(count).standard_normal((count, SMALL["hidden_size"])).astype(np.float32)


def expected(store: Path, x: Floats, bits: int) -> Floats:
    """silu(gate . x) * (up . x), from what the store holds."""
    weights = Quantised(stored.contents(store), uniform(bits), sums=Ordered())
    spec = cast(Architecture, SimpleNamespace(hidden=SMALL["hidden_size"], norm_eps=SMALL["rms_norm_eps"]))
    normed = decoder.norm(spec, weights, x, f"{LAYER}.norm.ffn")
    gate, up = (weights.dot(f"{LAYER}.{name}", normed) for name in ("gate", "up"))
    return decoder.ACTIVATIONS["silu"](gate) * up


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_neurons_are_the_reference_at_every_level_the_model_reads(small: Path, bits: int, count: int) -> None:
    x = rows(count)
    for precision in (16, bits):
        with Model.open(small, precision=precision) as model, model.turn() as backend:
            found = backend.engine.neurons(LAYER, x, bits)
        assert found.shape == (count, FFN)
        np.testing.assert_array_equal(found.view(np.uint32), expected(small, x, bits).view(np.uint32))


@pytest.mark.parametrize("ffn", [SPARSE, {"dense": 4}])
def test_a_recipe_gives_all_levels_that_it_reads(small: Path, ffn: Json) -> None:
    x = rows(3)
    engine = opened(small, recipe(ffn, 8), cache=needed(small, recipe(ffn, 8))["least"])
    for bits in (4, 8):
        np.testing.assert_array_equal(engine.neurons(LAYER, x, bits), expected(small, x, bits))
    with pytest.raises(UsageError, match="whose FFN is open at 8"):
        engine.neurons(LAYER, x, 16)


def test_levels_that_are_not_read_are_refused(small: Path) -> None:
    with Model.open(small, precision=8) as model, model.turn() as backend:
        with pytest.raises(UsageError, match="whose FFN is open at 8: open it at 16"):
            backend.engine.neurons(0, rows(1), 16)
        with pytest.raises(UsageError, match="a level of 5 bits; 4, 8 and 16 are known"):
            backend.engine.neurons(0, rows(1), 5)
