"""What a token touches is one number, whoever foresees or counts it (docs/design.md, 2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs.cli.stats import table
from m2cache_rs.config import LEVELS, PARTS
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.predictors import CODING
from m2cache_rs.recipe.recipe import Dense, Ffn, Recipe, Sparse
from m2cache_rs.recipe.work import record_bytes
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.session import Model

from tests.stores import Shown
from tests.test_heads import copied, give, of
from tests.test_predictors import tensors, write

HALF = (Shares(0.5, (0.25, 0.25, 0.5)),)
FFNS: dict[str, Ffn] = {
    **{f"dense {bits}": Dense(bits) for bits in LEVELS},
    "plane": Sparse("plane", HALF),
    "oracle": Sparse("oracle", HALF),
    "lowrank": Sparse("lowrank", HALF, predictor="svd"),
    "cascade": Sparse("cascade", HALF, (0.75,), "svd"),
}


@pytest.fixture(name="ranking", scope="session")
def with_predictors(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small store and what chooses neurons and query heads of it."""
    store = copied(small, tmp_path_factory.mktemp("touched") / "small.m2c")
    opened = Opened(store)
    give(store, of(opened.architecture))
    # No neuron weighs less than nothing.
    factors = {name: np.abs(values) for name, values in tensors().items()}
    write(store, tensors=factors, metadata={"store": opened.manifest["id"]})
    return store


def foreseen(opened: Opened, recipe: Recipe) -> dict[str, int]:
    """By part, with what chooses neurons (both vectors in f32) and query heads (a bias in f32)."""
    spec, predictor = opened.architecture, opened.predictor(recipe)
    head = record_bytes(CODING, spec.hidden, 8) + 4
    choosing = {
        "ffn": 0 if predictor is None else predictor.bytes(),
        "attn": 0 if recipe.query_heads is None else spec.layers * spec.heads * head,
    }
    return {part: size + choosing.get(part, 0) for part, size in opened.weights(recipe).parts.items()}


def run(store: Path, recipe: Recipe, cache: int | None) -> tuple[Model, dict[str, Any]]:
    """What three decode tokens were counted, alone and in a batch."""
    with Model.open(store, recipe=recipe, cache=cache) as model:
        model.logits([1, 2, 3])
        together = model.stats()
        list(model.generate([1, 2, 3], 4))
        assert model.stats()["touched"] == together["touched"], "as if each were alone"
    return model, together


@pytest.mark.parametrize("heads", [None, (0.5,), (1 / 6, 0.8)], ids=["all heads", "half", "by layer"])
@pytest.mark.parametrize("ffn", FFNS)
def test_what_a_token_is_foreseen_to_touch_is_what_it_was_counted(
    ranking: Path, ffn: str, heads: tuple[float, ...] | None
) -> None:
    """Split, bundled and gated, records of odd lengths that the store pads; with a cache and without."""
    recipe, opened = Recipe(8, 4, 16, 8, FFNS[ffn], heads), Opened(ranking)
    weights, wanted = opened.weights(recipe), foreseen(opened, recipe)
    for cache in (None, weights.least):
        model, counted = run(ranking, recipe, cache)
        assert counted["touched"] == wanted
        assert counted["recipe"]["cost"]["bytes_per_token"] == wanted["ffn"]
        assert sum(weights.parts.values()) == weights.token_bytes == model.weights.token_bytes


@pytest.mark.parametrize("bits", LEVELS)
def test_a_dense_token_touches_every_weight_once(small: Path, shown: Shown, bits: int) -> None:
    """By hand, by the core, by a run, and in the tables of plan and of --stats."""
    opened = Opened(small)
    spec, weights = opened.architecture, opened.weights(Recipe.dense(bits))
    record = record_bytes(opened.encoding["coding"], spec.hidden, bits)
    attention = sum(spec.records(name) for name in ("q", "k", "v", "o"))
    by_hand = {
        "attn": spec.layers * attention * record,
        "ffn": spec.layers * len(spec.ffn_matrices) * spec.ffn * record,
        "head": spec.vocab * record,
        "embed": record,
    }
    assert weights.parts == by_hand
    assert all(weights.stored[part] > by_hand[part] for part in ("attn", "ffn", "head")), "records are padded"
    _, counted = run(small, Recipe.dense(bits), None)
    assert counted["touched"] == by_hand
    assert next(table(counted, None)).startswith("a new token touched ")
    told = json.loads(shown("plan", small, "--disk-gbps", 1, "--json")[1])
    assert told["comparison"]["ffn_bytes_per_token"][str(bits)]["dense"] == by_hand["ffn"]
    assert told["levels"][str(bits)]["weights"]["parts"] == by_hand
    assert set(by_hand) == set(PARTS)
