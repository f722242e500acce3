"""Scoring several recipes of a store in one run: what they share, what each costs, the picture."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs.cli.program import main
from m2cache_rs.eval import bootstrap
from m2cache_rs.eval.models import beside, label_of
from m2cache_rs.runtime.cut import Above, Shares
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.recipe import Certified, Recipe, Sparse

TEXT = "In the beginning God created the heaven and the earth.\n" * 20
HALF = Shares(0.5, (0.25, 0.25, 0.5))
PLANE = Recipe(8, 8, 16, 8, Sparse("plane", (HALF,)))
ORACLE = Recipe(8, 8, 16, 8, Sparse("oracle", (HALF,)))

Shown = Callable[..., tuple[int, str, str]]


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
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """Runs a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            sys.exit(main([str(one) for one in arguments]))
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def recipe_file(folder: Path, name: str, recipe: Recipe) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(recipe.to_dict()))
    return path


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
