"""`Model.serving`: several recipes on one open store, by turns."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs import Model
from m2cache_rs._core import Engine
from m2cache_rs.errors import BudgetError, UsageError
from m2cache_rs.eval.models import Asked, open_all
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.dial import Chosen
from m2cache_rs.recipe.recipe import Dense, Recipe, Sparse
from m2cache_rs.runtime import start
from m2cache_rs.runtime.cpu import CpuBackend
from m2cache_rs.runtime.decoder import Batch, Floats, Kind
from m2cache_rs.runtime.opening import Opened

from tests.stores import SMALL
from tests.test_predictors import tensors, write

IDS = [int(one) for one in np.random.default_rng(5).integers(0, SMALL["vocab_size"], 40)]
ALL_FINE = Shares(1.0, (0.3, 0.3, 0.4))
RECIPES = {
    "4": Recipe.dense(4),
    "8": Recipe(8, 8, 16, 16, Dense(8)),
    "16": Recipe.dense(16),
    "plane": Recipe(8, 8, 16, 8, Sparse("plane", (Shares(0.5, (0.25, 0.25, 0.5)),))),
    "oracle": Recipe(16, 8, 4, 4, Sparse("oracle", (Shares(0.2, (0.0, 1.0, 0.0)),))),
}
SERVES = [Recipe.dense(16), Recipe(16, 16, 16, 16, Sparse("plane", (ALL_FINE,)))]

many = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def truth(store: Path, name: str) -> bytes:
    """By a model that was opened for the recipe."""
    with Model.open(store, recipe=RECIPES[name]) as model:
        return model.logits(IDS).tobytes()


def room(store: Path, share: float) -> int:
    with Model.open(store, cache=1 << 30, serves=SERVES) as model:
        weights = model._opened.weights(Recipe.dense(16), SERVES)
    return int(weights.least + share * (weights.all - weights.least))


@many
@given(order=st.lists(st.sampled_from(sorted(RECIPES)), min_size=1, max_size=8), share=st.floats(0, 1.1))
def test_each_has_its_bits_whoever_had_a_turn_before(small: Path, order: list[str], share: float) -> None:
    with Model.open(small, cache=room(small, share), serves=SERVES) as model:
        views = {name: model.serving(RECIPES[name]) for name in set(order)}
        for name in order:
            assert views[name].logits(IDS).tobytes() == truth(small, name), name
            assert views[name].recipe == RECIPES[name]
        assert model.logits(IDS).tobytes() == truth(small, "16")


def test_batches_go_by_turns(small: Path) -> None:
    """Each batch by another recipe, and each generation's sequence is its own."""
    with Model.open(small, serves=SERVES) as model:
        views = [model.serving(RECIPES[name]) for name in ("4", "plane", "8")]
        rows: list[list[Floats]] = [[], [], []]
        for batches in zip(*(view.logits_by_batch(IDS) for view in views), strict=True):
            for kept, batch in zip(rows, batches, strict=True):
                kept.append(batch)
        for name, kept in zip(("4", "plane", "8"), rows, strict=True):
            assert np.concatenate(kept).tobytes() == truth(small, name)


def test_threads_by_different_recipes(small: Path) -> None:
    found: dict[str, bytes] = {}
    with Model.open(small, cache=room(small, 0.2), serves=SERVES) as model:

        def run(name: str) -> None:
            view = model.serving(RECIPES[name])
            found[name] = view.logits(IDS).tobytes()

        threads = [threading.Thread(target=run, args=(name,)) for name in RECIPES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {name: truth(small, name) for name in RECIPES}


def test_a_sequence_goes_on_by_another_recipe(small: Path) -> None:
    """What it holds is what it was computed as: the prompt's keys and values are those of 16 bits."""
    ids = np.array(IDS, np.uint32)
    with Model.open(small, serves=SERVES) as model:
        coarse = model.serving(RECIPES["4"])
        rows = []
        for second in (coarse, model):
            with model.sequence(len(ids)) as sequence:
                model.forward(Batch.run(ids[:30], sequence, 0, Kind.PROMPT))
                rows.append(second.forward(Batch.run(ids[30:], sequence, 30, Kind.DECODE)))
        assert rows[1].tobytes() == model.logits(IDS)[30:].tobytes()
        assert rows[0].tobytes() not in (rows[1].tobytes(), coarse.logits(IDS)[30:].tobytes())


def test_what_is_counted_is_of_each(small: Path) -> None:
    with Model.open(small, serves=SERVES) as model:
        plane, eight = model.serving(RECIPES["plane"]), model.serving(RECIPES["8"])
        for view, ids in ((plane, IDS), (eight, IDS[:7]), (plane, IDS[:3]), (model, IDS[:2])):
            view.logits(ids)
        found = {view: view.stats() for view in (plane, eight, model)}
        assert [found[view]["ffn"]["tokens"] for view in found] == [43, 7, 2]
        assert [found[view]["tokens"]["decode"] for view in found] == [43, 7, 2]
        assert found[plane]["recipe"]["recipe"] == RECIPES["plane"].to_dict()
        assert found[plane]["passes"] == 3
        read = sum(stats["read_bytes"] + stats["hit_bytes"] for stats in found.values())
        with model.turn() as backend:
            total = json.loads(backend.engine.stats())  # type: ignore[attr-defined]
        assert read == total["read_bytes"] + total["hit_bytes"]
        assert sum(sum(one["reads"] for one in stats["layers"]) for stats in found.values()) == total["reads"]
    with Model.open(small, recipe=RECIPES["plane"]) as alone:
        alone.logits(IDS)
        alone.logits(IDS[:3])
        assert alone.stats()["ffn"]["neurons"] == found[plane]["ffn"]["neurons"]
        assert alone.stats()["recipe"]["cost"] == found[plane]["recipe"]["cost"]


def test_a_recipe_without_room_is_refused(small: Path) -> None:
    with Model.open(small, precision=8) as model:
        for name in ("16", "plane"):
            with pytest.raises(UsageError, match="name it when the model is opened"):
                model.serving(RECIPES[name])
        assert model.logits(IDS[:3]).shape[0] == 3
        assert model.serving(RECIPES["4"]).logits(IDS).tobytes() == truth(small, "4")
    with pytest.raises(UsageError, match="needs a predictor"):
        Model.open(small, serves=[Recipe(8, 8, 8, 8, Sparse("lowrank", (ALL_FINE,)))])
    with pytest.raises(UsageError, match="sequences is 0"):
        Model.open(small, sequences=0)


def test_a_named_recipe_that_was_not_tuned_is_refused(small: Path) -> None:
    with Model.open(small) as model:
        assert model.serving(quality="exact").recipe == Recipe.dense(16)
    with Model.open(small, precision=4, serves=["exact"]) as model:
        assert model.serving(quality="exact").logits(IDS).tobytes() == truth(small, "16")
    with pytest.raises(UsageError, match="m2cache tune"):
        Model.open(small, serves=["fast"])
    with Model.open(small) as model, pytest.raises(UsageError, match="m2cache tune"):
        model.serving(quality="fast")


def test_closing_ends_one_or_all(small: Path) -> None:
    with Model.open(small, serves=SERVES) as model:
        with model.serving(RECIPES["4"]) as view:
            view.logits(IDS[:2])
        with pytest.raises(UsageError, match="closed"):
            view.logits(IDS[:2])
        with pytest.raises(UsageError, match="closed"):
            view.stats()
        other = model.serving(RECIPES["8"])
        assert model.logits(IDS).tobytes() == truth(small, "16")
    with pytest.raises(UsageError, match="closed"):
        other.logits(IDS[:2])


def test_a_cap_has_room_for_all_recipes_and_sequences(small: Path) -> None:
    with Model.open(small, dram="512MiB", ctx=100, serves=SERVES, sequences=3) as model:
        assert model.stats()["kv_capacity"] == 3 * 128
        views = [model.serving(RECIPES[name]) for name in ("4", "plane", "8")]
        for _ in zip(*(view.logits_by_batch(IDS) for view in views), strict=True):
            pass
        alone = Model.open(small, dram="512MiB", ctx=100)
        with alone:
            assert alone.budget.kv * 3 == model.budget.kv
            assert alone.budget.scratch < model.budget.scratch
            with pytest.raises(UsageError, match="beside weights"):
                alone.serving(RECIPES["plane"])
        for _ in range(3):
            model.forward(Batch.run(np.zeros(100, np.uint32), _sequence(model), 0, Kind.PROMPT))
        with pytest.raises(BudgetError):
            model.forward(Batch.run(np.zeros(1, np.uint32), _sequence(model), 0, Kind.PROMPT))


@pytest.mark.parametrize(("kv", "opened"), [("f16", 2), ("f32", 1)])
def test_recipes_that_are_scored_share_one_open_store(
    tale: Path, kv: str, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is apart where it keeps keys and values otherwise; all have their own bits."""
    engines = _counted(monkeypatch)
    recipes = [Chosen(RECIPES[name]) for name in ("plane", "4", "8")]
    with open_all(Opened(tale), Asked(kv=kv, ctx=64, dram="1GiB"), recipes, 100) as (models, best, _):
        assert len(engines) == opened
        assert best is not None
        found = [np.concatenate(one) for one in zip(*_together([*models, best]), strict=True)]
    for rows, recipe in zip(found, [RECIPES[name] for name in ("plane", "4", "8", "16")], strict=True):
        with Model.open(tale, recipe=recipe, kv="f32" if recipe == RECIPES["16"] else kv) as alone:
            assert rows.tobytes() == alone.logits(IDS).tobytes()


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Engines that are opened from here on."""
    engines: list[Engine] = []

    def opening(*arguments: Any, **options: Any) -> Engine:
        engines.append(Engine(*arguments, **options))
        return engines[-1]

    monkeypatch.setattr(start, "Engine", opening)
    return engines


def _together(models: list[Model]) -> Iterator[tuple[Floats, ...]]:
    """Batches of all models by turns."""
    return zip(*(model.logits_by_batch(IDS) for model in models), strict=True)


def _sequence(model: Model) -> int:
    """One that nobody frees before the model is closed."""
    with model.turn() as backend:
        return backend.create(np.ones(model.architecture.head_dim // 2, np.float32), 1.0)


def test_predictors_are_handed_over_once_and_when_another_is_asked_for(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "copy.m2c"
    shutil.copytree(small, store)
    id, given = Opened(store).manifest["id"], []
    real = Opened.give_predictors

    def give(self: Opened, recipe: Recipe, engine: Engine) -> None:
        given.append(recipe.predictor)
        real(self, recipe, engine)

    monkeypatch.setattr(Opened, "give_predictors", give)
    for name in ("a", "b"):
        write(store, name, metadata={"store": id}, tensors={k: abs(v) for k, v in tensors().items()})
    half = (Shares(0.3, (0.0, 1.0, 0.0)),)
    of = {name: Recipe(8, 8, 8, 8, Sparse("lowrank", half, (), name)) for name in ("a", "b")}
    with Model.open(store, recipe=Recipe.dense(8), serves=list(of.values())) as model:
        views = [model.serving(of[name]) for name in ("a", "b")]
        for view in (views[1], model, views[1], views[0], model, views[0]):
            view.logits(IDS[:2])
    assert given == [None, "a", "b", "a"]


@pytest.mark.parametrize("serves", [3, None, "fast", RECIPES["4"], {"attn": 4}])
def test_serves_are_several(small: Path, serves: Any) -> None:
    with pytest.raises(UsageError, match="a list of recipes, their files or their names is needed"):
        Model.open(small, serves=serves)


def test_a_closed_model_serves_nothing(small: Path) -> None:
    with Model.open(small, recipe=RECIPES["16"], serves=[RECIPES["4"]]) as model:
        other = model.serving(RECIPES["4"])
        other.close()
        with pytest.raises(UsageError, match="the model is closed"):
            other.serving(RECIPES["16"])
        assert model.serving(RECIPES["4"]).logits(IDS).tobytes() == truth(small, "4")


def test_an_interrupted_switch_is_made_anew(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the engine takes up a recipe arrives behind the call."""
    serve = CpuBackend.serve

    def interrupted(self: CpuBackend, recipe: str) -> None:
        serve(self, recipe)
        raise KeyboardInterrupt

    with Model.open(small, recipe=RECIPES["16"], serves=[RECIPES["4"]]) as model:
        other = model.serving(RECIPES["4"])
        assert model.logits(IDS).tobytes() == truth(small, "16")
        with monkeypatch.context() as patched:
            patched.setattr(CpuBackend, "serve", interrupted)
            with pytest.raises(KeyboardInterrupt):
                other.logits(IDS)
        assert model.logits(IDS).tobytes() == truth(small, "16")
        assert other.logits(IDS).tobytes() == truth(small, "4")


def test_nobody_takes_up_another_recipe_in_the_middle_of_a_pass(small: Path) -> None:
    with Model.open(small, recipe=RECIPES["16"], serves=[RECIPES["4"]]) as model:
        other, refused = model.serving(RECIPES["4"]), []

        def progress(done: int) -> None:
            for call in (lambda: other.logits(IDS), lambda: model.serving(RECIPES["4"])):
                with pytest.raises(UsageError, match="in the middle of a pass by another recipe"):
                    call()
                refused.append(done)

        with model.sequence(len(IDS)) as sequence:
            batch = Batch.run(np.array(IDS, np.uint32), sequence, 0, Kind.PROMPT)
            told = model.forward(batch, progress=progress)
        with model.sequence(len(IDS)) as sequence:
            batch = Batch.run(np.array(IDS, np.uint32), sequence, 0, Kind.PROMPT)
            assert model.forward(batch).tobytes() == told.tobytes()
        assert refused


def test_a_predictor_made_anew_is_not_taken_for_the_old_one(small: Path, tmp_path: Path) -> None:
    store = tmp_path / "copy.m2c"
    shutil.copytree(small, store)
    id = Opened(store).manifest["id"]
    ranked = Recipe(8, 8, 8, 8, Sparse("lowrank", (Shares(0.5, (0.0, 1.0, 0.0)),), predictor="one"))
    write(store, "one", metadata={"store": id}, tensors={k: abs(v) for k, v in tensors().items()})
    with Model.open(store, recipe=RECIPES["8"], serves=[ranked]) as model:
        first = model.serving(ranked)
        before = first.logits(IDS).tobytes()
        (store / "profiles/predictor-one.safetensors").unlink()
        write(store, "one", metadata={"store": id}, tensors={k: 2 * abs(v) for k, v in tensors().items()})
        with pytest.raises(UsageError, match=r"predictor-one\.safetensors was made anew"):
            model.serving(ranked)
        assert first.logits(IDS).tobytes() == before
