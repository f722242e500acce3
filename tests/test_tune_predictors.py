"""`m2cache tune` by a predictor: what the recipe says of it, and what becomes of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import Model
from m2cache_rs.recipe import tuned
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.predictors import path_of
from m2cache_rs.recipe.recipe import Recipe, Sparse
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.tune import model
from m2cache_rs.tune.layers import UNIFORM, of_active
from m2cache_rs.tune.model import Settings, tuning

from tests.stores import Shown
from tests.tuning import TEXT, give_predictors


@pytest.mark.parametrize(
    ("options", "left"),
    [([], lambda kept: min(1, 2 * kept)), (["--candidates", 0.7], lambda kept: max(0.7, kept))],
)
@pytest.mark.usefixtures("few")
def test_a_cascade_is_tuned_with_candidates_of_every_layer(
    options: list[object], left: Callable[[float], float], store: Path, text: Path, shown: Shown
) -> None:
    give_predictors(store, "svd")
    command = [
        "tune",
        store,
        "--force",
        "--text",
        text,
        "--tokens",
        32,
        "--select",
        "cascade",
        "--json",
        "--bits",
        7,
    ]
    code, out, err = shown(*command, *options)
    assert code == 0, err
    found = json.loads(out)["found"]["asked"]
    recipe = Recipe.from_dict(found["recipe"])
    assert isinstance(recipe.ffn, Sparse)
    kept = [cut.active for cut in recipe.ffn.layers if isinstance(cut, Shares)]
    assert recipe.ffn.candidates == tuple(map(left, kept))
    assert found["measured"]["bits"] <= 7


def tune_by(store: Path, text: Path, predictor: str) -> list[object]:
    """The command that tunes by a low-rank predictor, of few tokens."""
    given = ["--force", "--text", text, "--tokens", 32, "--select", "lowrank", "--predictor", predictor]
    return ["tune", store, *given]


@pytest.mark.usefixtures("few")
def test_a_tuned_recipe_names_its_predictor(store: Path, text: Path, shown: Shown) -> None:
    give_predictors(store, "one", "two")
    command = tune_by(store, text, "two")
    code, _, err = shown(*command)
    assert code == 0, err
    kept = tuned.load(store, Opened(store).manifest["id"])
    assert kept is not None
    assert [one.recipe.predictor for one in kept.values() if isinstance(one.recipe.ffn, Sparse)]
    for name, one in kept.items():
        assert one.recipe.predictor == ("two" if isinstance(one.recipe.ffn, Sparse) else None)
        with Model.open(store, quality=name) as model:
            assert model.stats()["recipe"]["recipe"] == one.recipe.to_dict()


@pytest.mark.usefixtures("few")
def test_what_was_measured_with_another_predictor_is_not_told(
    store: Path, text: Path, shown: Shown, caplog: pytest.LogCaptureFixture
) -> None:
    give_predictors(store, "svd", "other")
    command = tune_by(store, text, "svd")
    assert shown(*command)[0] == 0
    kept = tuned.load(store, Opened(store).manifest["id"])
    assert kept is not None
    ranked = {name: one for name, one in kept.items() if one.recipe.predictor}
    assert ranked, "one of three recipes leaves neurons out"
    assert {name for name, one in kept.items() if one.files} == set(ranked)
    name, found = next(iter(ranked.items()))
    path = path_of(store, "svd")
    before = path.read_bytes()
    for content, measured in ((path_of(store, "other").read_bytes(), None), (before, found.measured)):
        # Another file of the same size that was made in the same moment.
        path.write_bytes(content[:-4] + (bytes(4) if measured is None else content[-4:]))
        caplog.clear()
        with Model.open(store, quality=name) as model:
            assert model.recipe == found.recipe
            assert model.chosen.measured == measured
        told = f"{name} was tuned with another predictor-svd.safetensors" in caplog.text
        assert told == (measured is None)
    path.write_bytes(before[:-4] + bytes(4))
    caplog.clear()
    code, _, err = shown("generate", store, "-p", "In the", "--max-new-tokens", 3, "--quality", name)
    assert code == 0
    assert caplog.text.count("what it costs is not known") == 1
    assert f"m2cache: {name}: " in err
    assert "measured KL" not in err
    code, out, _ = shown("eval", store, "--text", text, "--tokens", 32, "--quality", name, "--json")
    assert (code, json.loads(out)["measured"]) == (0, None)
    assert json.loads(out)["mean_kl"] > 0


@pytest.mark.parametrize("moment", ["before it is read", "before recipes are kept"])
@pytest.mark.usefixtures("few")
def test_a_predictor_that_is_replaced_meanwhile_is_not_taken_for_the_old_one(
    moment: str, store: Path, text: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_predictors(store, "svd")
    path = path_of(store, "svd")
    old = path.read_bytes()

    def replace(*arguments: Any) -> Any:
        path.with_name(".new.tmp").write_bytes(old[:-4] + bytes(4))
        path.with_name(".new.tmp").replace(path)
        return first(*arguments)

    owner, name = (model, "predictions") if moment == "before it is read" else (model.Tuning, "save")
    first = getattr(owner, name)
    monkeypatch.setattr(owner, name, replace)
    command = ["tune", store, "--force", "--text", text, "--tokens", 32, "--select", "lowrank"]
    code, out, err = shown(*command)
    assert (code, f"{path} was replaced while it was measured with: run tune again" in err) == (2, True)
    assert not (store / "profiles/recipes.json").exists()
    (journal,) = (store / "profiles").glob("*.journal")
    if moment == "before it is read":
        assert (journal.read_bytes().count(b"\n"), out) == (1, "")
    else:
        assert "balanced" in out
    monkeypatch.undo()
    path.write_bytes(old)
    assert shown("verify", store)[0] == 0


@pytest.mark.usefixtures("few")
def test_bytes_of_a_predictor_are_part_of_the_budget(store: Path) -> None:
    """Allocations that fill the rest: without them nothing but uniform levels would fit."""
    give_predictors(store, "one")
    with tuning(store, TEXT, Settings(tokens=32, select="lowrank"), lambda done, total: None) as run:
        shares = [UNIFORM[8], *[of_active(0.5, (0.0, 0.5, 0.5))] * (run.meter.layers - 1)]
        point = run.meter.point("", shares)
        assert run.meter.ranking.bytes > 0
        assert point.bytes == pytest.approx(run.tuner.size(shares) + run.meter.ranking.bytes, rel=1e-9)
