"""What lies in `STORE/profiles/` is checked by `m2cache verify`: each file by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from m2cache_rs.recipe import tuned
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.recipe import Recipe, Sparse
from m2cache_rs.recipe.tuned import Measured, Tuned
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.tune.frontier import Point
from m2cache_rs.tune.journal import Journal
from m2cache_rs.tune.layers import UNIFORM

from tests.stores import EXAMPLE, Cli, Shown

ALL = ["neurons.json", "order.json", "predictor-svd.safetensors", "query-heads.safetensors", "recipes.json"]
RECIPE = Recipe(16, 16, 16, 16, Sparse("plane", (Shares(0.5, (0.25, 0.25, 0.5)),)))
MEASURED = Measured(0.01, None, 9.5, 3 << 20, 6.25, 300, "ab12")


@pytest.fixture(scope="module")
def profiled(tale: Path, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every kind of profile."""
    folder = tmp_path_factory.mktemp("profiled")
    plain, path = folder / "plain.m2c", folder / "hot.m2c"
    shutil.copytree(tale, plain, copy_function=os.link, ignore=shutil.ignore_patterns("profiles"))
    text = ("--text", EXAMPLE / "README.md", "--tokens", "40", "--force")
    done = cli("profile", plain, *text, "--no-predictors", "--reorder", path)
    assert done.returncode == 0, done.stderr
    done = cli("profile", path, *text, "--rank", "4", "--query-heads")
    assert done.returncode == 0, done.stderr
    opened = Opened(path)
    tuned.save(path, opened.manifest["id"], {"high": Tuned(RECIPE, MEASURED)})
    with Journal(path, {"store": opened.manifest["id"]}) as journal:
        for bits, shares in UNIFORM.items():
            whole = (shares,) * opened.architecture.layers
            journal.add(Point(f"uniform {bits}", whole, 0.1, None, 1.0, 9.0, 1e6, float(bits)))
    (path / "profiles/.0123.tmp").write_bytes(b"being written")
    (path / "profiles/mine.txt").write_bytes(b"a note of the user's")
    return path


@pytest.fixture
def store(profiled: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    copy = shutil.copytree(profiled, tmp_path / "hot.m2c", copy_function=os.link)
    shutil.rmtree(copy / "profiles")
    shutil.copytree(profiled / "profiles", copy / "profiles")
    return copy


def test_sound_profiles_are_named(profiled: Path, shown: Shown) -> None:
    code, out, _ = shown("verify", profiled)
    assert (code, out.startswith("sound: ")) == (0, True)
    code, out, _ = shown("verify", profiled, "--json")
    report = json.loads(out)
    assert (code, report["sound"], report["damages"]) == (0, True, [])
    (journal,) = (profiled / "profiles").glob("tuning-*.journal")
    assert report["profiles"] == [*ALL, journal.name]


def test_a_journal_that_a_kill_cut_short_is_sound(store: Path, shown: Shown) -> None:
    (journal,) = (store / "profiles").glob("tuning-*.journal")
    content = journal.read_bytes()
    for end in (-3, content.index(b"\n"), 4, 0):
        journal.write_bytes(content[:end])
        assert shown("verify", store)[0] == 0, end


@pytest.mark.parametrize("name", [*ALL, "tuning"])
def test_a_pipe_keeps_nobody_waiting(name: str, store: Path, shown: Shown) -> None:
    (path,) = (store / "profiles").glob(f"{name}*")
    path.unlink()
    os.mkfifo(path)
    code, out, _ = shown("verify", store)
    assert (code, out.splitlines()[0]) == (1, f"{path} is no regular file; remove it")


def changed(text: str, by: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert text.encode() in content
        return content.replace(text.encode(), by.encode(), 1)

    return change


NAN = np.array([np.nan], np.float32).tobytes()
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "statistics cut short": ("neurons.json", lambda content: content[:-9], "is no JSON; `m2cache profile"),
    "statistics of other layers": (
        "neurons.json",
        changed('"layers":[', '"layers":[],"x":['),
        "other layers",
    ),
    "another store's order": ("order.json", changed('"store": "', '"store": "0'), "made for another store"),
    "no order": ("order.json", changed("[[", "[[0, "), "has no order of the neurons"),
    "a predictor cut short": ("predictor-svd.safetensors", lambda content: content[:-1], "is broken"),
    "a predictor of other bits": (
        "predictor-svd.safetensors",
        changed('"bits":"4"', '"bits":"7"'),
        "not 4 or 8",
    ),
    "a weight that is none": (
        "predictor-svd.safetensors",
        lambda content: content[:-4] + NAN,
        "has numbers in weight of layer 5 that are not finite",
    ),
    "a weight below 0": (
        "predictor-svd.safetensors",
        lambda content: content[:-4] + np.array([-1], np.float32).tobytes(),
        "has numbers in weight of layer 5 that are below 0",
    ),
    "heads that are none": (
        "query-heads.safetensors",
        lambda content: content[:-4] + NAN,
        "has numbers in bias of layer 5 that are not finite",
    ),
    "heads of other shapes": (
        "query-heads.safetensors",
        changed("layer.0.bias", "layer.0.bios"),
        "lacks heads",
    ),
    "a recipe that is none": (
        "recipes.json",
        changed('"plane"', '"plain"'),
        "recipe 'high': ffn.sparse.selector",
    ),
    "recipes of another version": (
        "recipes.json",
        changed('"version": 1', '"version": 9'),
        "not of version 1",
    ),
    "a journal's digit": ("tuning", changed("uniform 8", "uniform 9"), "is damaged in line 3"),
    "a journal's head": ("tuning", changed('"version"', '"VERSION"'), "is damaged in line 1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_by_file(damage: str, store: Path, shown: Shown) -> None:
    name, change, message = DAMAGES[damage]
    (path,) = (store / "profiles").glob(f"{name}*")
    path.write_bytes(change(path.read_bytes()))
    code, out, _ = shown("verify", store, "--json")
    report = json.loads(out)
    assert (code, report["sound"]) == (1, False)
    (found,) = report["damages"]
    assert found["file"] == f"profiles/{path.name}"
    assert str(path) in found["message"]
    assert message in found["message"]
    code, out, _ = shown("verify", store)
    assert (code, out.splitlines()) == (1, [found["message"], "1 damage"])


def test_a_recipe_for_planes_that_are_not_stored(tale_mid: Path, tmp_path: Path, shown: Shown) -> None:
    store = shutil.copytree(tale_mid, tmp_path / "mid.m2c", ignore=shutil.ignore_patterns("profiles"))
    tuned.save(store, Opened(store).manifest["id"], {"high": Tuned(RECIPE, MEASURED)})
    code, out, _ = shown("verify", store)
    assert code == 1
    assert "which needs the plane 'low' that this store lacks" in out
    assert "recipes.json" in out
