"""What is foreseen to be read, beside what is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model
from m2cache_rs.convert import convert
from m2cache_rs.errors import BudgetError
from m2cache_rs.models import architecture_of
from m2cache_rs.plan.reads import Reads
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.recipe import Certified, Dense, Recipe, Sparse
from m2cache_rs.runtime.decoder import Batch, Kind
from m2cache_rs.runtime.opening import Opened

from tests.reference import checkpoint, tiny
from tests.stores import EXAMPLE, SMALL

RELU = {"hidden_act": "relu"}
# The forecast's own ranking, so that both choose the same neurons.
TRACE: dict[str, Any] = {"memory": 0.0, "skew": 0.0, "seed": 0}
BANDS = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.25, 0.25, 0.5))


def ranked(paid: str, active: float, bands: tuple[float, float, float]) -> Sparse:
    return Sparse({"trace": {"paid": paid, **TRACE}}, (Shares(active, bands),))


FFNS = {
    "dense 8": Dense(8),
    **{
        f"plane {active}, {bands}": ranked("plane", active, bands)
        for active in (0.02, 0.5)
        for bands in BANDS
    },
    "plane, all": ranked("plane", 1.0, BANDS[2]),
    "oracle": ranked("oracle", 0.1, BANDS[2]),
}


@pytest.fixture(scope="module", params=["split", "bundled", "gated"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in each preset of sections; its head is its embedding: rows of it are in the cache."""
    path = tmp_path_factory.mktemp("reads") / "tale.m2c"
    convert(EXAMPLE, path, sections=request.param)
    return path


def read_by_tokens(model: Model, tokens: int) -> tuple[float, int]:
    """Bytes and reads of a token at position 0, once the cache has what it will have."""

    def run(times: int) -> None:
        for _ in range(times):
            with model.sequence(1) as sequence:
                batch = Batch.run(np.ones(1, np.uint32), sequence, 0, Kind.DECODE)
                model.forward(batch, np.ones(1, bool))

    run(2)
    before = model.stats()
    run(tokens)
    after = model.stats()
    kinds = ("read_bytes", "aligned_bytes", "gap_bytes")
    moved = sum(after[kind] - before[kind] for kind in kinds)
    return moved / tokens, after["reads"] - before["reads"]


@pytest.mark.parametrize("ffn", FFNS.values(), ids=FFNS)
def test_what_is_foreseen_is_read(store: Path, ffn: Any) -> None:
    opened, recipe = Opened(store), Recipe(8, 8, 8, 16, ffn)
    needs = opened.weights(recipe)
    for share in (0.1, 0.7, 1.0):
        cache = needs.least + int((needs.all - needs.least) * share)
        found = opened.reads(recipe)(cache)
        with Model.open(store, cache=cache, recipe=recipe) as model:
            moved, reads = read_by_tokens(model, 3)
        assert moved == found.total
        assert reads >= 3 * found.reads
        assert share < 1 or found.total == 0


@pytest.mark.parametrize("name", ["dense 8", "plane 0.02, (0.0, 1.0, 0.0)", "plane, all"])
def test_odd_sizes_are_read_in_pages(small: Path, name: str) -> None:
    """Rows of its embedding are read beside: as many where all else is in the cache. What is read ahead of
    the next token may or may not have come when counters are read: some part of one of the tokens."""
    opened, recipe, tokens = Opened(small), Recipe(8, 8, 8, 16, FFNS[name]), 40
    needs = opened.weights(recipe)
    moved = []
    for cache in (needs.all, needs.least):
        with Model.open(small, cache=cache, recipe=recipe) as model:
            moved.append(read_by_tokens(model, tokens)[0])
    foreseen = opened.reads(recipe)(needs.least).total
    assert foreseen > 0
    assert abs(moved[1] - moved[0] - foreseen) * tokens < foreseen


def test_costly_reads_bring_what_lies_between(small: Path) -> None:
    opened = Opened(small)
    recipe = Recipe(8, 8, 8, 16, ranked("plane", 0.1, BANDS[1]))
    cache = opened.weights(recipe).least

    def of(request: int) -> Reads:
        return Reads.of(opened.architecture, opened.encoding, recipe, cache, request)

    one_by_one, joined = of(0), of(1 << 20)
    assert one_by_one.reads > joined.reads
    assert one_by_one.chosen < joined.chosen
    assert one_by_one.swept == joined.swept


def test_certified_is_the_most_it_may_be(tmp_path: Path) -> None:
    weights = tiny.weights(architecture_of(SMALL | RELU)[1], seed=3)
    checkpoint.save(tmp_path / "model", SMALL | RELU, weights, "BF16")
    (tmp_path / "model/tokenizer.json").write_bytes((EXAMPLE / "tokenizer.json").read_bytes())
    convert(tmp_path / "model", tmp_path / "relu.m2c", sections="gated")
    opened = Opened(tmp_path / "relu.m2c")
    recipes = [Recipe(16, 16, 16, 16, ffn) for ffn in (Certified(16), Dense(16))]
    certified, dense = (opened.reads(recipe)(opened.weights(recipe).least) for recipe in recipes)
    assert certified.total > dense.total
    assert certified.chosen == 0


def test_a_cache_that_is_none_is_refused(small: Path) -> None:
    with pytest.raises(BudgetError, match="least"):
        Opened(small).reads(Recipe.dense(4))(1)
