"""Scoring several recipes of a store in one run: what they share, what each costs, the picture."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model
from m2cache_rs.eval import bootstrap
from m2cache_rs.eval.models import beside, label_of
from m2cache_rs.eval.run import evaluate, evaluate_all
from m2cache_rs.recipe.cut import Above, Shares
from m2cache_rs.recipe.recipe import Certified, Recipe, Sparse
from m2cache_rs.recipe.work import record_bytes
from m2cache_rs.runtime.opening import Opened

from tests.stores import Shown

TEXT = "In the beginning God created the heaven and the earth.\n" * 20
HALF = Shares(0.5, (0.25, 0.25, 0.5))
PLANE = Recipe(8, 8, 16, 8, Sparse("plane", (HALF,)))
ORACLE = Recipe(8, 8, 16, 8, Sparse("oracle", (HALF,)))


def values(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).exponential(1.0, count)


def test_intervals_are_bootstraps() -> None:
    found = values(200)
    low, high = bootstrap.interval(found)
    spread = found.std() / np.sqrt(len(found))
    assert low < found.mean() < high
    assert abs((high - low) / (2 * 1.96 * spread) - 1) < 0.1
    assert bootstrap.interval(np.full(5, 3.0)) == (3.0, 3.0)
    assert bootstrap.weighted_interval(found, np.ones(200)) == (low, high)
    assert bootstrap.weighted_interval(found, np.full(200, 2.0)) == (low / 2, high / 2)
    assert bootstrap.ratio_interval(found, found) == (1.0, 1.0)


def test_memory_of_an_interval_does_not_grow_with_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn in pieces, the resamples are the same."""
    whole = bootstrap.interval(values(50))
    monkeypatch.setattr(bootstrap, "_ENTRIES", 500)
    assert max(index.size for index in bootstrap._resamples(50)) == 500
    assert bootstrap.interval(values(50)) == whole


def test_several_at_once_are_each_alone(tale: Path) -> None:
    with (
        Model.open(tale, recipe=PLANE) as plane,
        Model.open(tale, precision=8) as eight,
        Model.open(tale, precision=16, kv="f32") as best,
    ):
        seen: list[int] = []
        together = evaluate_all([plane, eight], TEXT, 256, best, seen.append)
        alone = [evaluate(model, TEXT, 256, best) for model in (plane, eight)]
        itself = evaluate_all([plane, best], TEXT, 256, best)[1]
    for both, one in zip(together, alone, strict=True):
        both.pop("read_bytes_per_token"), one.pop("read_bytes_per_token")
        assert both == one
        low, high = one["kl_interval"]
        assert 0 < low < one["mean_kl"] < high
    assert seen[-1] == 2 * 255
    assert together[0]["mean_kl"] > together[1]["mean_kl"]
    assert itself["mean_kl"] == 0
    assert itself["kl_interval"] == (0, 0)


@pytest.mark.parametrize(("selector", "scanned"), [("plane", 4), ("oracle", 16)])
def test_touched_bytes_are_those_of_the_records(tale: Path, selector: str, scanned: int) -> None:
    """By decode semantics: what a scan has read is not read again."""
    recipe = PLANE if selector == "plane" else ORACLE
    with Model.open(tale, recipe=recipe) as model:
        report = evaluate(model, TEXT, 100)
        spec, coding = model.architecture, model._opened.encoding["coding"]
        needs = model.weights
    record = {bits: record_bytes(coding, spec.hidden, bits) for bits in (4, 8, 16)}
    counts = dict(zip((16, 8, 4), HALF.counts(spec.ffn), strict=True))
    matrices = len(spec.ffn_matrices)
    touched = spec.ffn * (matrices - 1) * record[scanned]
    for bits, count in counts.items():
        touched += count * record[bits]
        touched += count * (matrices - 1) * max(0, record[bits] - record[scanned])
    touched *= spec.layers
    assert report["ffn_bytes_per_token"] == touched == needs.parts["ffn"]
    assert report["bits_per_weight"] == 8 * touched / (spec.layers * matrices * spec.ffn * spec.hidden)
    assert report["active"] == [count / spec.ffn for count in counts.values()]
    others = needs.parts["attn"] + needs.parts["head"] + needs.parts["embed"]
    assert report["needed_bytes_per_token"] == others + touched


def test_a_short_text_has_no_interval(shown: Shown, tale: Path, text: Path) -> None:
    command = ["eval", tale, "--text", text, "--precision", 4, "--tokens"]
    assert "(95 %: too few tokens to say)" in shown(*command, 40)[1]
    assert json.loads(shown(*command, 225, "--json")[1])["kl_interval"] is None
    low, high = json.loads(shown(*command, 226, "--json")[1])["kl_interval"]
    assert low < high


def test_what_a_picture_shows_beside(tale: Path, tale_mid: Path) -> None:
    above = Recipe(8, 8, 16, 8, Sparse("plane", (Above((1.0, None, None), 0.3),)))
    rows = beside(Opened(tale), [PLANE, above, Recipe.dense(8), Recipe(8, 8, 16, 8, Certified(8))])
    assert [(group, label) for label, group, _ in rows] == [
        ("uniform", "4 bits"),
        ("uniform", "8 bits"),
        ("uniform", "16 bits"),
        ("oracle", "oracle 50 % 25/25/50"),
    ]
    assert rows[-1][2].recipe == ORACLE
    assert [label for label, _, _ in beside(Opened(tale_mid), [PLANE])] == ["4 bits", "8 bits"]
    assert label_of(above) == "plane at most 30 %"
    assert label_of(Recipe(8, 8, 16, 8, Certified(8))) == "certified 8 bits"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def recipe_file(folder: Path, name: str, recipe: Recipe) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(recipe.to_dict()))
    return path


def test_eval_of_several_recipes(shown: Shown, tale: Path, text: Path, tmp_path: Path) -> None:
    files = [recipe_file(tmp_path, "ours", PLANE), recipe_file(tmp_path, "top", ORACLE)]
    command = ["eval", tale, "--text", text, "--tokens", 80]
    for file in files:
        command += ["--recipe", file]
    code, out, err = shown(*command, "--quality", "exact", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert [one["label"] for one in report["recipes"]] == ["ours", "top", "exact"]
    assert report["recipes"][0]["recipe"] == PLANE.to_dict()
    assert report["peak_rss_bytes"] > 0
    code, out, _ = shown(*command)
    assert code == 0
    assert "95 % interval" in out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["ours", "top"]
    one = json.loads(shown("eval", tale, "--text", text, "--tokens", 80, "--recipe", files[0], "--json")[1])
    assert {**report["recipes"][0], "read_bytes_per_token": 0} == {
        **{name: value for name, value in one.items() if name != "peak_rss_bytes"},
        "read_bytes_per_token": 0,
    }


def test_eval_of_parts(shown: Shown, tale: Path, text: Path) -> None:
    command = ["eval", tale, "--text", text, "--tokens", 40, "--precision", 8, "--select", "plane"]
    command += ["--active", 0.3, "--bands", "0/50/50"]
    code, out, err = shown(*command)
    assert code == 0, err
    assert "30 % (50 % at 8, 50 % at 4) of neurons by plane, all at 8 bits in prompts" in out
    assert "bits a weight; 29.9% of neurons)" in out
    assert "95 %:" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "/nowhere/r.json"], "the recipe /nowhere/r.json cannot be read"),
        (["--quality", "fast"], "was never tuned"),
        (["--recipe", "/nowhere/r.json", "--select", "plane"], "recipe says all that is computed"),
        (["--quality", "exact", "--precision", "8"], "quality says all that is computed"),
        (["--plot", "x.jpeg"], "a picture's name ends in .png, .svg, .pdf"),
        (["--plot", "/nowhere/x.png"], "/nowhere is no directory"),
        (["--select", "plane", "--active", "2"], "active is '2'; a share"),
        (["--select", "lowrank"], "needs a predictor"),
    ],
)
def test_what_eval_refuses(shown: Shown, tale: Path, text: Path, options: list[str], message: str) -> None:
    code, out, err = shown("eval", tale, "--text", text, *options)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_a_picture_without_matplotlib_is_refused_at_once(
    shown: Shown, tale: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = shown("eval", tale, "--text", text, "--plot", tmp_path / "x.png")
    assert code == 2
    assert "pip install 'm2cache-rs[plot]'" in err


def test_a_picture_without_reference_is_refused(
    shown: Shown, tale_mid: Path, text: Path, tmp_path: Path
) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed (the `plot` extra)")
    code, _, err = shown("eval", tale_mid, "--text", text, "--plot", tmp_path / "x.png", "--tokens", 40)
    assert code == 2
    assert "a picture needs a reference" in err


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_shows_recipes_levels_and_exact_top_k(
    shown: Shown, tale: Path, text: Path, tmp_path: Path, suffix: str
) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed (the `plot` extra)")
    path, file = tmp_path / f"x.{suffix}", recipe_file(tmp_path, "ours", PLANE)
    command = ["eval", tale, "--text", text, "--tokens", 60, "--recipe", file, "--kv", "f32"]
    code, out, err = shown(*command, "--plot", path, "--json")
    assert code == 0, err
    report = json.loads(out)["recipes"]
    assert [one["group"] for one in report] == ["ours", "uniform", "uniform", "uniform", "oracle"]
    assert report[3]["mean_kl"] == 0
    oracle, plane = report[4], report[0]
    assert oracle["free_bytes_per_token"] < plane["needed_bytes_per_token"] < oracle["needed_bytes_per_token"]
    content = path.read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG")
    else:
        for words in (
            b"exact top-k, if ranking were free",
            b"uniform levels",
            b"recipes",
            b"ours",
            b"(KL 0)",
        ):
            assert b"<!-- " + words in content or words in content


def test_several_recipes_keep_to_one_cap(tale: Path, tmp_path: Path) -> None:
    """Their models, the reference and the scoring together; VmHWM of a process of its own."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 10)
    files = [recipe_file(tmp_path, "a", PLANE), recipe_file(tmp_path, "b", Recipe.dense(4))]
    code = (
        "import sys; from m2cache_rs.cli.program import main\n"
        "from m2cache_rs.machine.memory import peak_rss\n"
        "code = main(sys.argv[1:]); print(peak_rss(), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "eval", tale, "--text", text, "--dram", "180MiB", "--json"]
    for file in files:
        command += ["--recipe", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [one["mean_kl"] > 0 for one in json.loads(done.stdout)["recipes"]] == [True, True]
    assert int(done.stderr.split()[-1]) <= 180 << 20
