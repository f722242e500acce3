"""Files that are missing, no files, somebody else's, in the wrong place, cut short or longer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs import _core
from m2cache_rs.errors import StoreError, StoreIOError

from tests.attacks import forge

FIRST, SECOND, EMBED = "layer-00000.safetensors", "layer-00001.safetensors", "embed.safetensors"
NEEDED = ("m2cache.json", FIRST, SECOND, EMBED)
ASSETS = tuple(forge.ASSETS)
FOREIGN = "the file is damaged or from another store"


def refused(store: Path, name: str, message: str, error: type[Exception] = StoreError) -> None:
    with pytest.raises(StoreError if error is StoreError else StoreIOError) as caught:
        _core.Store(str(store))
    assert type(caught.value) is error
    assert str(store / name) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", NEEDED)
def test_a_file_is_missing(store: Path, name: str) -> None:
    (store / name).unlink()
    refused(store, name, "No such file", StoreIOError)


def test_an_asset_is_missing(store: Path) -> None:
    """Token ids need no tokenizer: the store opens, and verify says what is missing."""
    (store / "tokenizer.json").unlink()
    ((message, _),) = _core.Store(str(store)).verify("tokenizer.json")
    assert "tokenizer.json: the file is missing; put it back" in message


@pytest.mark.parametrize("name", [*NEEDED, *ASSETS])
def test_a_link_in_place_of_a_file(store: Path, sound: Path, name: str) -> None:
    (store / name).unlink()
    (store / name).symlink_to(sound / name)
    refused(store, name, "is a symbolic link; files of a store are regular files")


@pytest.mark.parametrize("name", [*NEEDED, *ASSETS])
def test_a_link_to_nowhere(store: Path, name: str) -> None:
    (store / name).unlink()
    (store / name).symlink_to("/nowhere")
    refused(store, name, "is a symbolic link")


@pytest.mark.parametrize("name", [*NEEDED, *ASSETS])
def test_a_pipe_is_not_waited_for(store: Path, name: str) -> None:
    (store / name).unlink()
    os.mkfifo(store / name)
    refused(store, name, "is no regular file")


@pytest.mark.parametrize("name", [*NEEDED, *ASSETS])
def test_a_directory_in_place_of_a_file(store: Path, name: str) -> None:
    (store / name).unlink()
    (store / name).mkdir()
    refused(store, name, "is no regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", NEEDED)
def test_a_file_that_may_not_be_read(store: Path, name: str) -> None:
    (store / name).chmod(0)
    refused(store, name, "Permission denied", StoreIOError)


def test_a_store_behind_a_link_opens(store: Path, tmp_path: Path) -> None:
    """Links inside are refused; where the user keeps the store is his own business."""
    (tmp_path / "link.m2c").symlink_to(store)
    _core.Store(str(tmp_path / "link.m2c"))


def test_what_is_no_directory(tmp_path: Path, store: Path) -> None:
    for path in (tmp_path / "absent", store / FIRST):
        with pytest.raises(StoreIOError, match=r"m2cache\.json"):
            _core.Store(str(path))


def test_a_conversion_that_is_not_finished_never_opens(store: Path, tmp_path: Path) -> None:
    partial = store.rename(tmp_path / "model.m2c.partial")
    with pytest.raises(StoreError, match=r"model\.m2c\.partial: is an unfinished conversion"):
        _core.Store(str(partial))


def test_layers_change_places(store: Path) -> None:
    (store / FIRST).rename(store / "x")
    (store / SECOND).rename(store / FIRST)
    (store / "x").rename(store / SECOND)
    refused(store, FIRST, FOREIGN)


def test_a_layer_comes_twice(store: Path) -> None:
    shutil.copy(store / FIRST, store / SECOND)
    refused(store, SECOND, FOREIGN)


@pytest.mark.parametrize("name", NEEDED[1:])
def test_a_file_of_another_store(store: Path, foreign: Path, name: str) -> None:
    shutil.copy(foreign / name, store / name)
    refused(store, name, FOREIGN)


def test_the_manifest_of_another_store(store: Path, foreign: Path) -> None:
    shutil.copy(foreign / "m2cache.json", store / "m2cache.json")
    refused(store, FIRST, FOREIGN)


def test_the_manifest_of_another_encoding(store: Path, tmp_path: Path) -> None:
    other = forge.write(tmp_path / "other.m2c", sections="bundled")
    shutil.copy(other / "m2cache.json", store / "m2cache.json")
    with pytest.raises(StoreError, match=FIRST):
        _core.Store(str(store))


def test_the_data_of_another_store_under_our_header(store: Path, foreign: Path) -> None:
    """Tables and records that agree with each other, but not with the header's digests."""
    header, _ = forge.split((store / FIRST).read_bytes())
    _, data = forge.split((foreign / FIRST).read_bytes())
    (store / FIRST).write_bytes(forge.join(header, data))
    opened = _core.Store(str(store))
    found = [message for message, _ in opened.verify(FIRST)]
    assert any("vector norm.attn does not match its digest" in message for message in found)
    for section in ("q.base", "gate.base+up.base", "down.low"):
        assert any(f"checksum table of section {section} does not match" in message for message in found)


@pytest.mark.parametrize("name", NEEDED[1:])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short(store: Path, sound: Path, name: str, share: float) -> None:
    whole = (sound / name).read_bytes()
    kept = int(share * len(whole))
    (store / name).write_bytes(whole[:kept])
    refused(
        store, name, f"ends at byte {kept}, but the manifest needs byte {len(whole)}: the file is truncated"
    )


def test_a_manifest_cut_short_at_every_byte(store: Path) -> None:
    text = (store / "m2cache.json").read_bytes().rstrip()
    for kept in range(len(text)):
        (store / "m2cache.json").write_bytes(text[:kept])
        refused(store, "m2cache.json", "the manifest is no JSON")


@pytest.mark.parametrize("name", NEEDED[1:])
@pytest.mark.parametrize("more", [b"\0", bytes(4096)])
def test_a_file_that_became_longer(store: Path, name: str, more: bytes) -> None:
    with (store / name).open("ab") as file:
        file.write(more)
    refused(store, name, "something was appended")


@pytest.mark.parametrize("name", NEEDED[1:])
def test_a_file_cut_short_while_it_is_open(store: Path, name: str) -> None:
    opened = _core.Store(str(store))
    size = (store / name).stat().st_size
    os.truncate(store / name, size - 8192)
    assert any("the file is truncated" in message for message, _ in opened.verify(name))
    os.truncate(store / name, 10)
    assert opened.verify(name)


def test_what_lies_beside_is_ignored(store: Path) -> None:
    (store / "profiles").mkdir()
    (store / "layer-00002.safetensors").write_text("not ours")
    (store / "m2cache.json.tmp").symlink_to("/nowhere")
    _core.Store(str(store))
