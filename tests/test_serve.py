"""One open engine that computes by several recipes: the bits of engines that were opened for each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs._core import Engine, Store, needs
from m2cache_rs.errors import StoreIOError, UsageError
from m2cache_rs.models import architecture_of
from m2cache_rs.runtime.decoder import Floats

from tests.engines import LAYERS, Json, Sequence, dense, needed, noise, opened, predicting, recipe, sparse
from tests.reference import tiny
from tests.stores import SMALL
from tests.test_heads import HEADS, lines
from tests.test_parity import stored

RECIPES: dict[str, Json] = {
    "4": recipe({"dense": 4}, 4, 4),
    "8": dense(8, 16),
    "16": recipe({"dense": 16}, 4, 16),
    "plane": sparse("plane", {"top": [0, 0, 40]}),
    "bands": sparse("plane", {"top": [9, 30, 60]}, {"top": [0, 70, 30]}),
    "above": sparse("plane", {"above": {"scores": [0.5, 0.2, None], "most": 90}}),
    "lowrank": sparse("lowrank", {"top": [0, 25, 25]}),
    "cascade": sparse({"cascade": [80]}, {"top": [5, 5, 30]}),
    "oracle": sparse("oracle", {"top": [20, 0, 0]}),
    "certified": recipe({"certified": 16}, 4),
    "heads": recipe({"dense": 8}) | {"query_heads": {"top": 2}},
}
# What needs as much as all of them.
WIDEST = [
    dense(16),
    sparse("plane", {"top": [1, 0, 0]}),
    recipe({"certified": 16}, 16, 16) | {"query_heads": {"top": 1}},
]

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["bundled", "split"])
def rectified(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The small model with ReLU, whose neurons can be proven off."""
    config = SMALL | {"hidden_act": "relu"}
    weights = tiny.weights(architecture_of(config)[1], 5)
    with stored(tmp_path_factory.mktemp("relu"), config, weights, sections=request.param) as path:
        yield path


def given_all(engine: Engine) -> Engine:
    """With all that any recipe ranks and chooses by."""
    for layer, (weight, bias) in lines(HEADS, SMALL["hidden_size"], LAYERS[1], 1).items():
        engine.set_head_predictor(layer, weight, bias)
    return predicting(engine)


def decoded(engine: Engine, seed: int = 14) -> Floats:
    """A prompt's tokens and decoded ones, one by one and together, and their logits."""
    sequence, x = Sequence(engine), noise(12, seed)
    edges = [(0, 5, True), (5, 6, False), (6, 12, False)]
    rows = np.concatenate([sequence.feed(x[a:b], a, prompt) for a, b, prompt in edges])
    return np.concatenate([engine.head(rows).ravel(), engine.embed(np.arange(20, dtype=np.uint32)).ravel()])


@cache
def truth(store: Path, name: str) -> bytes:
    """Of a model that was opened for the recipe, everything resident."""
    return decoded(given_all(opened(store, RECIPES[name], threads=1, io="psync"))).tobytes()


def wide(store: Path, share: float, **options: Any) -> tuple[Engine, int]:
    """An engine with room for all recipes, and the cache that it was given."""
    first, *others = map(json.dumps, WIDEST)
    manifest = json.loads(Store(str(store)).manifest())
    model = (json.dumps(manifest[part]) for part in ("architecture", "encoding"))
    need = json.loads(needs(*model, first, others))
    size = int(need["least"] + share * (need["all"] - need["least"]))
    return given_all(opened(store, WIDEST[0], cache=size, serves=others, **options)), size


def serve(engine: Engine, name: str) -> None:
    engine.serve(json.dumps(RECIPES[name]))


@many
@given(
    order=st.lists(st.sampled_from(sorted(RECIPES)), min_size=1, max_size=7),
    share=st.sampled_from([0.0, 1.0]) | st.floats(0, 1.1), request_=st.none() | st.integers(0, 40_000),
    lookahead=st.none() | st.integers(0, 1 << 20), io=st.sampled_from(["auto", "psync"]),
    verify=st.sampled_from(["first", "always", "never"]), threads=st.integers(1, 3),
    delays=st.sampled_from(["", "slow=300us", "short,reverse"]),
)  # fmt: skip
def test_every_recipe_has_the_bits_of_its_own_model(
    rectified: Path, order: list[str], share: float, request_: int | None, lookahead: int | None, io: str,
    verify: str, threads: int, delays: str,
) -> None:  # fmt: skip
    with patch.dict(os.environ, {"M2CACHE_FAULTS": delays}):
        engine, size = wide(
            rectified, share, request=request_, lookahead=lookahead, io=io, verify=verify, threads=threads
        )
    for name in order:
        serve(engine, name)
        assert decoded(engine).tobytes() == truth(rectified, name), name
    stats = json.loads(engine.stats())
    assert stats["fixed_bytes"] + stats["ring_bytes"] <= size


@many
@given(
    order=st.lists(st.sampled_from(sorted(RECIPES)), min_size=2, max_size=6),
    share=st.sampled_from([0.0, 0.3]), nth=st.integers(1, 300), io=st.sampled_from(["auto", "psync"]),
)  # fmt: skip
def test_what_failed_under_one_recipe_is_none_of_the_next(
    rectified: Path, order: list[str], share: float, nth: int, io: str
) -> None:
    with patch.dict(os.environ, {"M2CACHE_FAULTS": f"eio={nth}"}):
        engine, _ = wide(rectified, share, io=io)
    failed = 0
    for name in order:
        serve(engine, name)
        try:
            assert decoded(engine).tobytes() == truth(rectified, name), name
        except StoreIOError:
            failed += 1
    assert failed <= 1


@pytest.mark.parametrize(
    "turns", [("4", "16", "plane"), ("lowrank", "8", "heads"), ("bands", "certified", "4")]
)
def test_a_sequence_goes_on_by_another_recipe(rectified: Path, turns: tuple[str, ...]) -> None:
    """Its keys and values are what they were computed as: those of a model opened for the recipe before."""
    x, engine = noise(9, 5), wide(rectified, 0.2)[0]
    sequence, found = Sequence(engine), []
    kept, wanted = Sequence(given_all(opened(rectified, RECIPES[turns[0]]))), []
    for at, name in zip((0, 3, 6), turns, strict=True):
        serve(engine, name)
        found.append(sequence.feed(x[at : at + 3], at, False))
        kept.engine = given_all(opened(rectified, RECIPES[name]))
        wanted.append(kept.feed(x[at : at + 3], at, False))
    assert np.concatenate(found).tobytes() == np.concatenate(wanted).tobytes()


def test_what_was_loaded_is_not_read_again(rectified: Path) -> None:
    engine, _ = wide(rectified, 1.0)
    serve(engine, "16")
    decoded(engine)
    before = json.loads(engine.stats())["layers"]
    for name in ("4", "8", "16"):
        serve(engine, name)
        decoded(engine)
    after = json.loads(engine.stats())["layers"]
    read = [sum(layer["read_bytes"] for layer in layers[:-1]) for layers in (before, after)]
    assert read[0] == read[1]


def test_what_there_is_no_room_for_is_refused_by_name(rectified: Path) -> None:
    engine = opened(rectified, RECIPES["8"])
    before = decoded(engine).tobytes()
    for name, what in (("plane", "chosen while"), ("heads", "chosen while")):
        with pytest.raises(UsageError, match=f"not open for this recipe.*{what}.*serves"):
            serve(engine, name)
    with pytest.raises(UsageError, match=r"needs section .*low"):
        serve(engine, "16")
    with pytest.raises(UsageError, match="no object"):
        engine.serve("8")
    assert decoded(engine).tobytes() == before
    serve(engine, "4")
    assert decoded(engine).tobytes() == truth(rectified, "4")
    assert needed(rectified, dense(4))["all"] < needed(rectified, dense(8))["all"]
