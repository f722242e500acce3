"""Striped stores with one thing wrong: the list of roots, a directory, its marker, a file in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import _core
from m2cache_rs.errors import M2CacheError, StoreError, StoreIOError

from tests.attacks import forge
from tests.stores import Cli

MARKER = "m2cache-root.json"
FIRST, SECOND, EMBED = "layer-00000.safetensors", "layer-00001.safetensors", "embed.safetensors"


@pytest.fixture
def striped(store: Path) -> list[Path]:
    """The store and two roots beside it: one file in each."""
    return forge.stripe(store, "../one", "../two")


def refused(store: Path, error: type[M2CacheError], *parts: object) -> None:
    with pytest.raises(M2CacheError) as caught:
        _core.Store(str(store))
    assert type(caught.value) is error
    assert all(str(part) in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_the_forge_makes_sound_roots(striped: list[Path]) -> None:
    opened = _core.Store(str(striped[0]))
    names = [entry["name"] for entry in forge.manifest(striped[0])["files"]]
    assert [message for name in names for message in opened.verify(name)] == []
    assert [[path.name for path in root.glob("*.safetensors")] for root in striped] == [
        [FIRST],
        [SECOND],
        [EMBED],
    ]


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        (["../one", "."], "the first is the store itself"),
        (["", "../one"], "the first is the store itself"),
        ([".", "."], '"." is no path, or comes twice'),
        ([".", "../one", "../one"], '"../one" is no path, or comes twice'),
        ([".", ""], '"" is no path, or comes twice'),
        ([".", "a\0b"], "is no path, or comes twice"),
        ([".", "\x1b[2J"], "is no path, or comes twice"),
        ([".", "x" * 5000], "is no path, or comes twice"),
        ([".", "a", "b", "c"], "these are more than its 3 files"),
        ([".", *(f"r{i}" for i in range(100_000))], "these are more than its 3 files"),
        ([".", 7], "breaks its schema"),
        ([".", None], "breaks its schema"),
    ],
    ids=lambda value: None if isinstance(value, list) else value[:20],
)
def test_the_list_of_roots(store: Path, roots: list[Any], message: str) -> None:
    forge.edit_manifest(store, ("features", ["roots"]), ("roots", roots))
    refused(store, StoreError, store / "m2cache.json", message)


@pytest.mark.parametrize("features", [["roots", "roots"], []])
def test_the_feature_is_named_once(striped: list[Path], features: list[str]) -> None:
    forge.edit_manifest(striped[0], ("features", features))
    refused(striped[0], StoreError, "m2cache.json", 'features names "roots" once')


@pytest.mark.parametrize(
    "root", ["/etc", "/", "..", "../../../../../../etc", "/proc/self/fd", "~", "/dev/null"]
)
def test_a_root_that_leads_elsewhere(store: Path, root: str) -> None:
    """A manifest can name any directory, but nothing is read of one without the store's marker."""
    forge.edit_manifest(store, ("features", ["roots"]), ("roots", [".", root]))
    refused(store, StoreIOError, store, root, "cannot be used", "is its disk mounted?")


def test_a_root_that_is_not_there(striped: list[Path]) -> None:
    shutil.rmtree(striped[2])
    refused(striped[0], StoreIOError, striped[0], striped[2], "No such file", "is its disk mounted?")


def test_an_empty_mount_point(striped: list[Path]) -> None:
    shutil.rmtree(striped[2])
    striped[2].mkdir()
    refused(striped[0], StoreIOError, striped[2], f"it has no {MARKER}", "is its disk mounted?")


def test_a_file_in_place_of_a_root(striped: list[Path]) -> None:
    shutil.rmtree(striped[1])
    striped[1].write_text("")
    refused(striped[0], StoreIOError, striped[1], "ot a directory")


def test_the_root_of_another_store(striped: list[Path], tmp_path: Path, foreign: Path) -> None:
    other = forge.copy(foreign, tmp_path / "other.m2c")
    places = forge.stripe(other, "../other-one", "../other-two")
    shutil.rmtree(striped[1])
    places[1].rename(striped[1])
    refused(striped[0], StoreError, striped[1] / MARKER, "marks root 1 of the store", "is it another disk?")


def test_roots_that_changed_places(striped: list[Path], tmp_path: Path) -> None:
    striped[1].rename(tmp_path / "x")
    striped[2].rename(striped[1])
    (tmp_path / "x").rename(striped[2])
    refused(
        striped[0], StoreError, striped[1] / MARKER, "marks root 2 of the store", "has root 1 of the store"
    )


def test_two_names_of_one_directory(striped: list[Path]) -> None:
    shutil.rmtree(striped[2])
    striped[2].symlink_to(striped[1])
    refused(striped[0], StoreError, striped[2] / MARKER, "marks root 1 of the store")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": "m2cache-root", "id": 1, "root": 1}', "[" * 4000, "\x1b[2J\n"]
)
def test_a_marker_that_is_none(striped: list[Path], text: str) -> None:
    (striped[1] / MARKER).write_text(text)
    refused(striped[0], StoreError, striped[1] / MARKER, "the marker breaks its schema")


def test_a_marker_with_more_to_say(striped: list[Path]) -> None:
    text = (striped[1] / MARKER).read_text()
    (striped[1] / MARKER).write_text(text[:-1] + ', "more": 1}')
    refused(striped[0], StoreError, striped[1] / MARKER, "unknown field `more`")
    (striped[1] / MARKER).write_text(text.replace('"m2cache-root"', '"m2cache-store"'))
    refused(striped[0], StoreError, striped[1] / MARKER, "marks root 1")
    (striped[1] / MARKER).write_text(text + " " * 5000)
    refused(striped[0], StoreError, striped[1] / MARKER, "is above 4096 bytes")


@pytest.mark.parametrize("name", [MARKER, SECOND])
def test_a_link_inside_a_root(striped: list[Path], tmp_path: Path, name: str) -> None:
    (striped[1] / name).rename(tmp_path / "moved")
    (striped[1] / name).symlink_to(tmp_path / "moved")
    refused(striped[0], StoreError, striped[1] / name, "is a symbolic link")


def test_a_pipe_in_place_of_a_marker(striped: list[Path]) -> None:
    (striped[1] / MARKER).unlink()
    os.mkfifo(striped[1] / MARKER)
    refused(striped[0], StoreError, striped[1] / MARKER, "is no regular file")


def test_a_file_of_a_root_is_missing_or_elsewhere(striped: list[Path]) -> None:
    """Which root holds a file is a rule: the same file in another root is not looked for."""
    (striped[1] / SECOND).rename(striped[0] / SECOND)
    refused(striped[0], StoreIOError, striped[1] / SECOND, "No such file")


def test_damage_in_a_root_is_named(striped: list[Path]) -> None:
    layout = json.loads(_core.Store(str(striped[0])).layout())["files"][1]
    section = layout["sections"][0]
    forge.flip(striped[1] / SECOND, section["offset"])
    ((message, place),) = _core.Store(str(striped[0])).verify(SECOND)
    assert message.startswith(f"{striped[1] / SECOND}: section {section['name']}, record 0")
    assert place == (section["name"], 0, min(64, section["records"]))


def test_a_root_behind_a_link(striped: list[Path], tmp_path: Path) -> None:
    """Where a disk is mounted is the user's business; so a root that was moved can be found again."""
    striped[1].rename(tmp_path / "moved")
    striped[1].symlink_to(tmp_path / "moved")
    _core.Store(str(striped[0]))


def test_commands_name_what_is_not_mounted(striped: list[Path], cli: Cli) -> None:
    shutil.rmtree(striped[1])
    for command in (["verify"], ["inspect"], ["generate", "-p", "x"], ["eval", "--text", __file__]):
        ended = cli(command[0], striped[0], *command[1:])
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert str(striped[1]) in ended.stderr
        assert "is its disk mounted?" in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_replacing_a_store_removes_no_roots_of_others(striped: list[Path], tmp_path: Path) -> None:
    """A root goes with its store only where its marker says so, and only the files that a store has."""
    other = shutil.copytree(striped[0], tmp_path / "other.m2c")
    forge.edit_manifest(other, ("synthetic", False))
    forge.mark(striped[2], "0" * 32, 2)
    (striped[1] / "notes.txt").write_text("mine")
    _core.remove_roots(str(striped[0]), str(other))
    assert (striped[1] / SECOND).exists(), "the other store names this root as well"
    _core.remove_roots(str(striped[0]), str(tmp_path))
    assert [path.name for path in striped[1].iterdir()] == ["notes.txt"]
    assert (striped[2] / EMBED).exists(), "marked as another store's"
