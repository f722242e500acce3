"""Stores in several directories: the same store, wherever its files lie."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model, _core
from m2cache_rs.convert import Progress, convert, partial
from m2cache_rs.errors import StoreIOError, UsageError

from tests.attacks import forge
from tests.reference import format as document
from tests.sources import contents, is_sound, model
from tests.stores import Cli

__all__ = ["model"]

IDS = [3, 1, 4, 1, 5]


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    """Where other devices would be mounted."""
    found = [tmp_path / "mnt" / name for name in ("a", "b", "c")]
    for path in found:
        path.mkdir(parents=True)
    return found


def roots(store: Path) -> list[Path]:
    return [Path(root) for root in _core.Store(str(store)).roots()]


def weights(store: Path) -> dict[str, bytes]:
    """The files of weights, wherever they lie."""
    return {path.name: path.read_bytes() for root in roots(store) for path in root.glob("*.safetensors")}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_roots_is_the_same_store(
    model: Path, tmp_path: Path, disks: list[Path], count: int
) -> None:
    whole = convert(model, tmp_path / "whole.m2c")
    report = convert(model, tmp_path / "tiny.m2c", stripe=disks[: count - 1], notify=lambda _: None)
    assert report.id == whole.id
    assert report.roots == tuple(map(str, roots(tmp_path / "tiny.m2c")))
    assert len(report.roots) == count
    assert report.bytes == sum(path.stat().st_size for root in report.roots for path in Path(root).iterdir())
    assert weights(tmp_path / "tiny.m2c") == weights(tmp_path / "whole.m2c")
    assert is_sound(tmp_path / "tiny.m2c")
    document.Store(tmp_path / "tiny.m2c")
    with Model.open(tmp_path / "whole.m2c") as one, Model.open(tmp_path / "tiny.m2c") as other:
        np.testing.assert_array_equal(one.logits(IDS), other.logits(IDS))


def test_neighbouring_layers_lie_on_different_roots(model: Path, tmp_path: Path, disks: list[Path]) -> None:
    convert(model, tmp_path / "tiny.m2c", stripe=disks[:2], notify=lambda _: None)
    layout = json.loads(_core.Store(str(tmp_path / "tiny.m2c")).layout())
    sizes = [file["bytes"] for file in layout["files"]]
    assert [file["root"] for file in layout["files"]] == document.spread(sizes, 3) == [0, 1, 2, 0]


@pytest.mark.parametrize("small_roots", [["../a"], ["../a", "b"], ["../a", "inside/b"]])
def test_striping_changes_no_bit(small: Path, tmp_path: Path, small_roots: list[str]) -> None:
    copy = forge.copy(small, tmp_path / "copy.m2c")
    forge.stripe(copy, *small_roots)
    with Model.open(small, precision=8) as one, Model.open(copy, precision=8, cache="1MiB") as other:
        np.testing.assert_array_equal(one.logits(IDS), other.logits(IDS))


def test_relative_roots_move_with_the_store(
    model: Path, tmp_path: Path, disks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "mnt")
    convert(model, "a/tiny.m2c", stripe=["b"], notify=lambda _: None)
    assert forge.manifest(disks[0] / "tiny.m2c")["roots"][1].startswith("../../b/tiny.m2c.stripe-")
    (tmp_path / "mnt").rename(tmp_path / "elsewhere")
    assert is_sound(tmp_path / "elsewhere/a/tiny.m2c")


def test_absolute_roots_stay_where_they_are(model: Path, tmp_path: Path, disks: list[Path]) -> None:
    convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=lambda _: None)
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "tiny.m2c").rename(tmp_path / "deep/er/other.m2c")
    assert is_sound(tmp_path / "deep/er/other.m2c")


def test_relative_roots_are_seen_from_the_real_place(
    model: Path, tmp_path: Path, disks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short").symlink_to(disks[0])
    monkeypatch.chdir(tmp_path)
    convert(model, "short/tiny.m2c", stripe=["mnt/b"], notify=lambda _: None)
    assert is_sound(tmp_path / "short/tiny.m2c")
    assert is_sound(disks[0] / "tiny.m2c")


def test_replacing_takes_the_old_roots_away(model: Path, tmp_path: Path, disks: list[Path]) -> None:
    quiet: dict[str, Any] = {"notify": lambda _: None, "force": True}
    for stripe in (disks[:2], disks[:2], disks[1:], [], disks):
        convert(model, tmp_path / "tiny.m2c", stripe=stripe, **quiet)
        assert is_sound(tmp_path / "tiny.m2c")
        assert [len(list(disk.iterdir())) for disk in disks] == [int(disk in stripe) for disk in disks]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mnt", "model", "tiny.m2c"]


def test_stores_of_one_name_share_a_disk(model: Path, tmp_path: Path, disks: list[Path]) -> None:
    stores = [tmp_path / place / "tiny.m2c" for place in ("x", "y")]
    for store in stores:
        store.parent.mkdir()
        convert(model, store, stripe=disks[:1], notify=lambda _: None)
    assert len(list(disks[0].iterdir())) == 2
    assert all(map(is_sound, stores))
    convert(model, stores[0], force=True)
    assert is_sound(stores[1])


def interrupted(model: Path, target: Path, done: int, **options: Any) -> None:
    """Runs a conversion until it is about to begin another file after `done`."""

    def stop(progress: Progress) -> None:
        if progress.file == f"layer-{done:05}.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(model, target, progress=stop, notify=lambda _: None, **options)


def test_a_striped_conversion_goes_on_where_it_stopped(
    model: Path, tmp_path: Path, disks: list[Path]
) -> None:
    interrupted(model, tmp_path / "tiny.m2c", 2, stripe=disks[:1])
    assert all(path.name.endswith(".partial") for path in disks[0].iterdir())
    report = convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=lambda _: None)
    assert report.resumed_files == 2
    assert is_sound(tmp_path / "tiny.m2c")
    assert len(list(disks[0].iterdir())) == 1


@pytest.mark.parametrize("then", [[], [1], [0, 1]])
def test_other_stripes_start_over_and_leave_nothing(
    model: Path, tmp_path: Path, disks: list[Path], then: list[int]
) -> None:
    interrupted(model, tmp_path / "tiny.m2c", 2, stripe=disks[:1])
    stripe = [disks[index] for index in then]
    report = convert(model, tmp_path / "tiny.m2c", stripe=stripe, notify=lambda _: None)
    assert report.resumed_files == 0
    assert is_sound(tmp_path / "tiny.m2c")
    assert [len(list(disk.iterdir())) for disk in disks] == [int(disk in stripe) for disk in disks]


def test_nothing_is_left_before_the_first_file_is_finished(
    model: Path, tmp_path: Path, disks: list[Path]
) -> None:
    interrupted(model, tmp_path / "tiny.m2c", 0, stripe=disks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mnt", "model"]
    assert not any(list(disk.iterdir()) for disk in disks)


def test_a_failed_publication_can_be_resumed(
    model: Path, tmp_path: Path, disks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _core.publish

    def fail(path: str, target: str, replace: bool) -> None:
        if target == str(tmp_path / "tiny.m2c"):
            raise StoreIOError("renaming into: out of luck")
        real(path, target, replace)

    monkeypatch.setattr(partial._core, "publish", fail)
    with pytest.raises(StoreIOError, match="out of luck"):
        convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=lambda _: None)
    assert [path.suffix for path in disks[0].iterdir()] == [".partial"]
    monkeypatch.undo()
    report = convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=lambda _: None)
    assert report.resumed_files == 4
    assert is_sound(tmp_path / "tiny.m2c")


def test_another_conversion_into_the_same_stripe_waits(
    model: Path, tmp_path: Path, disks: list[Path]
) -> None:
    def again(progress: Progress) -> None:
        if progress.file == "layer-00001.safetensors":
            with pytest.raises(UsageError, match="another conversion is writing"):
                convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=lambda _: None)

    convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], progress=again, notify=lambda _: None)
    assert is_sound(tmp_path / "tiny.m2c")


Usage = namedtuple("Usage", "total used free")


def test_space_is_checked_on_every_device(
    model: Path, tmp_path: Path, disks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roots that share a device need their sum there."""
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda path: Usage(0, 0, 3 << 20))
    with pytest.raises(StoreIOError, match=r"not enough space in .*: the store needs 3\.\d MiB more"):
        convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=lambda _: None)
    assert not list(disks[0].iterdir())
    places = partial._by_device([tmp_path, disks[0]], [1, 2])
    assert list(places) == [(tmp_path, 3)]


@pytest.mark.parametrize(
    ("stripe", "message"),
    [
        (["absent"], "does not exist; create it first"),
        (["file"], "is not a directory"),
        (["mnt/a", "mnt/../mnt/a"], "twice; one directory per device"),
        (["mnt/a", "link"], "twice; one directory per device"),
        (["tiny.m2c"], "lies inside the store"),
        (["tiny.m2c/inside"], "lies inside the store"),
        (["model"], "lies inside the source"),
        (["odd\nname"], "has characters that a manifest cannot name"),
        (
            ["mnt/a", "mnt/b", "mnt/c", "model/..", "odd"],
            "5 directories for 4 files|6 directories for 4 files",
        ),
    ],
)
def test_unusable_stripes(
    model: Path,
    tmp_path: Path,
    disks: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    stripe: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    convert(model, "tiny.m2c")
    (tmp_path / "tiny.m2c/inside").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(disks[0])
    for name in ("odd", "odd\nname"):
        (tmp_path / name).mkdir()
    before = contents(tmp_path / "model")
    with pytest.raises(UsageError, match=message):
        convert(model, "tiny.m2c", stripe=stripe, force=True, notify=lambda _: None)
    assert contents(tmp_path / "model") == before
    assert not list(disks[0].iterdir())
    assert is_sound(tmp_path / "tiny.m2c")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_stripe_that_cannot_be_written(model: Path, tmp_path: Path, disks: list[Path]) -> None:
    disks[0].chmod(0o500)
    with pytest.raises(StoreIOError, match="cannot be written"):
        convert(model, tmp_path / "tiny.m2c", stripe=disks[:1])


def test_one_device_is_worth_a_word(model: Path, tmp_path: Path, disks: list[Path]) -> None:
    told: list[str] = []
    report = convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=told.append)
    assert told == list(report.notes)
    assert "are one file system: striping over one device gains nothing" in told[0]


def test_the_commands_work_on_a_striped_store(
    cli: Cli, model: Path, tmp_path: Path, disks: list[Path]
) -> None:
    target = tmp_path / "tiny.m2c"
    made = cli("convert", model, target, "--stripe", f"{disks[0]},{disks[1]}")
    assert made.returncode == 0, made.stderr
    assert f"striped over 3 directories: {target}, {disks[0]}/tiny.m2c.stripe-" in made.stdout
    assert cli("verify", target).stdout.startswith("sound: ")
    shown = cli("inspect", target).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("root ")] == [
        f"{root}," for root in roots(target)
    ]
    report = json.loads(cli("inspect", target, "--json").stdout)
    assert [one["files"] for one in report["directories"]] == [2, 1, 1]
    assert sum(one["bytes"] for one in report["directories"]) == sum(one["bytes"] for one in report["files"])


@pytest.mark.parametrize("text", ["", ",", "a,", ",a"])
def test_an_empty_name_among_stripes(cli: Cli, model: Path, tmp_path: Path, text: str) -> None:
    ended = cli("convert", model, tmp_path / "tiny.m2c", "--stripe", text)
    assert ended.returncode == 2
    assert "directories with commas between them" in ended.stderr


def test_a_root_is_no_store(cli: Cli, model: Path, tmp_path: Path, disks: list[Path]) -> None:
    convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=lambda _: None)
    (root,) = disks[0].iterdir()
    for command in ("verify", "inspect"):
        ended = cli(command, root)
        assert ended.returncode == 2
        assert "holds a part of a striped store; name the directory that has the m2cache.json" in ended.stderr


def test_a_store_without_its_directory_leaves_roots_to_the_user(
    model: Path, tmp_path: Path, disks: list[Path]
) -> None:
    """Removing only the manifest's directory and converting again takes a new name beside the old root."""
    convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=lambda _: None)
    shutil.rmtree(tmp_path / "tiny.m2c")
    convert(model, tmp_path / "tiny.m2c", stripe=disks[:1], notify=lambda _: None)
    assert len(list(disks[0].iterdir())) == 2
    assert is_sound(tmp_path / "tiny.m2c")
