"""`m2cache tune` on a real store: what it keeps, what it says, what it refuses."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import Model
from m2cache_rs._core import Engine
from m2cache_rs.errors import StoreIOError, UsageError
from m2cache_rs.eval.run import evaluate
from m2cache_rs.plan.budget import scratch_bytes
from m2cache_rs.recipe import tuned
from m2cache_rs.recipe.recipe import Dense, Recipe
from m2cache_rs.runtime import start
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.tune import meter, model, reference, run
from m2cache_rs.tune.goal import Goal
from m2cache_rs.tune.layers import UNIFORM, options
from m2cache_rs.tune.meter import cut
from m2cache_rs.tune.model import Settings, tuning, widest
from m2cache_rs.tune.ranking import Ranking

from tests.stores import Shown
from tests.tuning import TEXT, give_predictors


@pytest.mark.usefixtures("few")
def test_the_dial_is_kept_and_used(store: Path, text: Path, shown: Shown) -> None:
    command = ["tune", store, "--force", "--text", text, "--tokens", 64]
    code, out, err = shown(*command)
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["high", "balanced", "fast"]
    assert f"wrote {store}/profiles/recipes.json" in err
    with Model.open(store) as model:
        kept = tuned.load(store, model._opened.manifest["id"])
    assert kept is not None
    sizes = [kept[name].measured.bytes_per_token for name in ("fast", "balanced", "high")]
    assert sizes == sorted(sizes)
    with Model.open(store, quality="balanced") as model, Model.open(store, precision=16, kv="f32") as best:
        measured = kept["balanced"].measured
        found = evaluate(model, TEXT, 64, best, window=256)
        assert found["mean_kl"] == pytest.approx(measured.kl, rel=1e-3)
        assert found["needed_bytes_per_token"] == measured.bytes_per_token
        assert found["perplexity"] == pytest.approx(measured.perplexity)
    code, out, _ = shown("generate", store, "-p", "In the", "--max-new-tokens", 3, "--quality", "balanced")
    assert code == 0


@pytest.mark.usefixtures("few")
def test_a_goal_gives_one_recipe(store: Path, text: Path, tmp_path: Path, shown: Shown) -> None:
    command = ["tune", store, "--force", "--text", text, "--tokens", 64, "--json"]
    out = tmp_path / "recipe.json"
    code, shown_out, err = shown(*command, "--bits", 5.5, "--out", out)
    assert code == 0, err
    report = json.loads(shown_out)
    asked = report["found"]["asked"]
    assert asked["measured"]["bits"] <= 5.5
    assert Recipe.from_dict(json.loads(out.read_text())).to_dict() == asked["recipe"]
    assert not (store / "profiles/recipes.json").exists(), "only the dial is kept"
    beaten = [one for one in report["uniform"] if one["bytes"] <= asked["measured"]["bytes"]]
    assert all(asked["measured"]["kl"] <= one["kl"] for one in beaten)
    code, shown_out, _ = shown(*command, "--max-kl", 0.05)
    assert json.loads(shown_out)["found"]["asked"]["measured"]["kl"] <= 0.05
    code, shown_out, _ = shown(*command, "--objective", "entropy", "--bytes-per-token", "7.5MB")
    found = json.loads(shown_out)["found"]["asked"]
    assert found["measured"]["bytes"] <= 7.5e6


@pytest.mark.usefixtures("few")
def test_what_is_measured_is_what_the_recipe_gives_in_a_model_of_its_own(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All recipes run by turns in one open model, beside one for the reference."""
    engines: list[Engine] = []

    def opening(*arguments: Any, **options: Any) -> Engine:
        engines.append(Engine(*arguments, **options))
        return engines[-1]

    monkeypatch.setattr(start, "Engine", opening)
    with tuning(store, TEXT, Settings(tokens=48), lambda done, total: None) as run:
        run.dial()
        points = [run.meter.point("", shares) for shares in list(run.meter._known)[::7]]
        assert len(points) > 3
        assert len(engines) == 2
        recipes = [run.meter.recipe(point.shares) for point in points]
    for point, recipe in zip(points, recipes, strict=True):
        with Model.open(store, recipe=recipe) as model:
            alone = evaluate(model, TEXT, 48)
        # Both sum the same logarithms, rows in other portions.
        assert point.perplexity == pytest.approx(alone["perplexity"], rel=1e-13)
        assert point.bytes == alone["needed_bytes_per_token"]


@pytest.mark.parametrize("selector", ["plane", "lowrank", "cascade"])
@pytest.mark.parametrize("prompt", [4, 16])
def test_no_recipe_that_is_searched_needs_more_than_the_model_was_opened_for(
    tale: Path, selector: str, prompt: int
) -> None:
    opened, base = Opened(tale), replace(Recipe.dense(16), prompt=prompt)
    ranking = Ranking(selector)
    spec, room = opened.architecture, widest(base, ranking)
    have = opened.weights(base, [room])
    kept = scratch_bytes(spec, base, "auto", 256, 2, serves=[room])
    for shares in options(3):
        ffn = Dense(16) if shares == UNIFORM[16] else ranking.sparse([cut(shares)])
        recipe = replace(base, ffn=ffn)
        assert opened.weights(base, [room, recipe]).all == have.all
        assert scratch_bytes(spec, recipe, "auto", 256, 2) <= kept


def test_parts_beside_the_ffn_have_the_precision_and_prompts_the_best(store: Path) -> None:
    for precision in ("attn=8,head=8", 8):
        with tuning(store, TEXT, Settings(tokens=16, precision=precision), lambda done, total: None) as run:
            found = run.meter.recipe([UNIFORM[4]] * run.meter.layers)
        assert (found.attn, found.head, found.prompt, found.ffn) == (8, 8, 16, Dense(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "lowrank"], "name one of one, two"),
        (["--select", "cascade", "--predictor", "three"], "there is no predictor 'three'"),
        (["--select", "cascade", "--predictor", "one", "--candidates", 2], "candidates is '2'; a share"),
        (["--predictor", "one"], "predictor goes with select lowrank or cascade"),
        (["--candidates", 0.5], "candidates goes with select cascade"),
        (["--precision", "ffn=4"], "precision names ffn, whose levels are what tune finds: name attn"),
        (["--prompt-bits", 5], "prompt_bits is 5"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_measured(
    options: list[object],
    message: str,
    store: Path,
    text: Path,
    shown: Shown,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_predictors(store, "one", "two")
    monkeypatch.setattr(Model, "open", lambda *args, **options: pytest.fail("a model was opened"))
    code, _, err = shown("tune", store, "--force", "--text", text, "--tokens", 32, *options)
    assert code != 0
    assert message in err


def test_the_best_recipe_is_itself(store: Path) -> None:
    """Keys and values in f16 are all that lies between them."""
    with tuning(store, TEXT, Settings(tokens=48), lambda done, total: None) as run:
        assert run.uniform[16].kl < 1e-6
        assert isinstance(run.meter.recipe([UNIFORM[8]] * run.meter.layers).ffn, Dense)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bits", 5, "--max-kl", 1], "--bits and --max-kl are 2 goals"),
        (["--bits", "nan"], "--bits is nan; a number above 0"),
        (["--bits", 1], "no recipe touches as few as 1 bits per FFN weight; "),
        (["--bytes-per-token", "1MB"], "with --precision attn=4,head=4"),
        (["--bytes-per-token", "much"], "bytes-per-token 'much' is no size"),
        (["--objective", "beauty"], "objective is 'beauty'; it must be one of kl, entropy"),
        (["--select", "oracle"], "select is 'oracle'; it must be one of plane"),
        (["--out", "r.json"], "--out takes the recipe of"),
        (["--tokens", 1], "at least 2 are needed"),
        (["--select", "lowrank"], "m2cache profile"),
    ],
)
@pytest.mark.usefixtures("few")
def test_what_makes_no_sense_is_refused(
    options: list[object], message: str, store: Path, text: Path, shown: Shown
) -> None:
    code, _, err = shown("tune", store, "--force", "--text", text, "--tokens", 32, *options)
    assert code != 0
    assert message in err
    assert not (store / "profiles/recipes.json").exists()


@pytest.mark.usefixtures("few")
def test_the_least_that_is_named_works(store: Path) -> None:
    with tuning(store, TEXT, Settings(tokens=32), lambda done, total: None) as run:
        for goal, unit, wrong in (("bits", "bits per FFN weight", 1.0), ("bytes", "a token", 1e6)):
            with pytest.raises(UsageError, match=f"{unit}; ([0-9.]+) ") as refused:
                run.asked(Goal(**{goal: wrong}))
            least = float(str(refused.value).split("; ")[1].split()[0])
            found = run.asked(Goal(**{goal: least})).point
            assert 0.98 * least < (found.bits if goal == "bits" else found.bytes) <= least


def test_a_store_without_16_bits_is_refused(tale_mid: Path) -> None:
    with (
        pytest.raises(UsageError, match="up to 8 bits: recipes are measured against"),
        tuning(tale_mid, TEXT, Settings(), lambda done, total: None),
    ):
        pass


def test_no_room_for_the_reference_is_said_first(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with (
        pytest.raises(StoreIOError, match=r"predictions at 16 bits take .* fewer --tokens"),
        tuning(store, TEXT, Settings(tokens=48), lambda done, total: None),
    ):
        pass


def test_what_cannot_be_kept_is_refused_before_anything_is_measured(
    store: Path, text: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter.Meter, "__init__", None)
    (store / "profiles").write_text("a file")
    code, _, err = shown("tune", store, "--force", "--text", text)
    assert (code, f"{store}/profiles cannot be written to" in err) == (2, True)
    (store / "dangling").symlink_to("/nonexistent/x.json")
    for out in (store / "none/x.json", store, store / "profiles/x.json", store / "dangling"):
        code, _, err = shown("tune", store, "--force", "--text", text, "--bits", 6, "--out", out)
        assert (code, f"the recipe cannot be written to {out}" in err) == (2, True)


@pytest.mark.usefixtures("few")
def test_a_full_disk_is_refused_at_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes is tried with as many bytes as recipes have."""
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(model, "predictions", lambda *all: pytest.fail("something was run"))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, room[1]))
    try:
        with (
            pytest.raises(StoreIOError, match=f"{store}/profiles cannot be written to"),
            tuning(store, TEXT, Settings(tokens=32), lambda done, total: None, keeps=True),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
        signal.signal(signal.SIGXFSZ, before)
    assert list((store / "profiles").iterdir()) == []


@pytest.mark.parametrize("goal", [[], ["--bits", 6, "--out", "OUT"]])
@pytest.mark.usefixtures("few")
def test_what_was_found_is_printed_though_it_cannot_be_kept(
    goal: list[object], store: Path, text: Path, tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*all: object) -> None:
        raise full

    monkeypatch.setattr(os if not goal else Path, "replace" if not goal else "write_text", refuse)
    goal = [tmp_path / "out.json" if one == "OUT" else one for one in goal]
    command = ["tune", store, "--force", "--text", text, "--tokens", 32, *goal]
    code, out, err = shown(*command)
    assert (code, "No space left on device" in err) == (2, True)
    assert out.splitlines()[-1].split()[0] == ("asked" if goal else "fast")
    code, out, err = shown(*command, "--json")
    assert code == 2
    assert json.loads(out)["found"].keys() == ({"asked"} if goal else {"high", "balanced", "fast"})


@pytest.mark.usefixtures("few")
def test_tokens_beyond_the_text_take_no_room(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def scratch(size: int) -> Any:
        asked.append(size)
        return reference.scratch(size)

    monkeypatch.setattr(model, "scratch", scratch)
    with tuning(store, "In the beginning", Settings(tokens=1 << 60), lambda done, total: None) as run:
        assert run.tokens < 17
        assert asked == [17 * 4 * run.opened.architecture.vocab]


@pytest.mark.usefixtures("few")
def test_a_text_that_tells_little_is_refused_and_replaces_nothing(
    store: Path, text: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(tokens: int) -> list[object]:
        return ["tune", store, "--text", text, "--tokens", tokens]

    text.write_text(TEXT * 3)
    assert shown(*command(256))[0] == 0
    kept = (store / "profiles/recipes.json").read_bytes()
    found = tuned.load(store, Opened(store).manifest["id"])
    assert found is not None
    assert all(one.measured.kl_interval is not None for one in found.values())
    value = json.loads(kept)
    for one in value["recipes"].values():
        one["measured"]["tokens"] = 2048
    (store / "profiles/recipes.json").write_text(json.dumps(value))
    monkeypatch.setattr(model, "predictions", lambda *all: pytest.fail("something was run"))
    code, _, err = shown(*command(256))
    assert code == 2
    assert f"{store}/profiles/recipes.json was made from 2048 tokens, and 256 would replace it" in err
    for goal in ([], ["--bits", 6]):
        code, _, err = shown(*command(255), *goal)
        assert (code, "255 tokens of text are too few to tell anything" in err) == (2, True)
    monkeypatch.undo()
    monkeypatch.setattr(run, "options", lambda planes: [*UNIFORM.values()])
    assert shown(*command(256), "--bits", 6)[0] == 0
    assert shown(*command(256), "--force")[0] == 0
    assert (
        json.loads((store / "profiles/recipes.json").read_text())["recipes"]["high"]["measured"]["tokens"]
        == 256
    )


def test_a_killed_run_leaves_nothing(store: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "m2cache_rs", "tune", store, "--force", "--text", text, "--json"]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(tmp_path / "temporary")}) as run:
        while not (store / "profiles").exists():
            assert run.poll() is None
        run.terminate()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_goal_is_one_number() -> None:
    assert Goal.parse(None, None, None) is None
    assert Goal.parse("1GB", None, None) == Goal(bytes=1e9)
    assert Goal.parse(None, 5.5, None) == Goal(bits=5.5)
    assert Goal.parse(None, None, 0.01) == Goal(kl=0.01)
