"""The safetensors container of any file, ours or a checkpoint's."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import safetensors
from m2cache_rs import _core
from m2cache_rs.convert import convert
from m2cache_rs.errors import CheckpointError, StoreError, StoreIOError
from m2cache_rs.models import architecture_of
from m2cache_rs.runtime.assets import Assets

from tests.attacks import forge
from tests.attacks.headers import FILES
from tests.reference import checkpoint, tiny


def refused(path: Path, message: str) -> None:
    with pytest.raises(StoreError) as caught:
        _core.read_header(str(path))
    shown = str(caught.value)
    assert type(caught.value) is StoreError
    assert shown.startswith(f"{path}: ")
    assert message in shown
    assert shown.isprintable()
    assert len(shown) < len(str(path)) + 1000


@pytest.mark.parametrize("name", FILES)
def test_a_header_that_breaks_a_rule(tmp_path: Path, name: str) -> None:
    content, message = FILES[name]
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path / "model.safetensors", message)


STRICTER = ("twice", "rank", "field unknown")


@pytest.mark.parametrize("name", [name for name in FILES if not any(word in name for word in STRICTER)])
def test_the_safetensors_library_agrees(name: str) -> None:
    """What we refuse is no valid file, but for names that come twice, unknown fields and endless ranks."""
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(FILES[name][0])


def test_what_is_odd_but_allowed(tmp_path: Path) -> None:
    """Empty tensors, scalars, any order in the header, metadata, spaces behind."""
    header = {
        "z": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]},
        "": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [2, 2]},
        "a": {"dtype": "U8", "shape": [1, 3], "data_offsets": [2, 5]},
        "__metadata__": {"format": "pt", "": "é\n"},
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(forge.join(json.dumps(header).encode() + b"   ", bytes(5)))
    base = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert _core.read_header(str(path)) == [
        ("z", "BF16", [], base, 2),
        ("", "F32", [0, 2**40], base + 2, 0),
        ("a", "U8", [1, 3], base + 2, 3),
    ]


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreIOError, match="No such file"):
        _core.read_header(str(tmp_path / "absent"))
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is no regular file")  # and is not waited for
    refused(tmp_path, "is no regular file")
    refused(Path("/dev/zero"), "is no regular file")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StoreIOError, match="symbolic links"):
        _core.read_header(str(tmp_path / "loop"))


def test_a_link_to_a_checkpoint_is_followed(tmp_path: Path) -> None:
    """A hub's cache is made of links."""
    (tmp_path / "blob").write_bytes(forge.join(b"{}"))
    (tmp_path / "model.safetensors").symlink_to("blob")
    assert _core.read_header(str(tmp_path / "model.safetensors")) == []


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_with_such_a_file(tmp_path: Path, name: str) -> None:
    """`convert` says so as a CheckpointError that names the file, and writes nothing."""
    config = tiny.CONFIG | {"num_hidden_layers": 1}
    checkpoint.save(tmp_path / "model", config, tiny.weights(architecture_of(config)[1], 1))
    (tmp_path / "model/tokenizer.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(FILES[name][0])
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "model", tmp_path / "model.m2c")
    assert "model.safetensors" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


DEEP = '{"a":' + "[" * 200_000


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_checkpoint_with_deep_json(tmp_path: Path, name: str) -> None:
    config = tiny.CONFIG | {"num_hidden_layers": 1}
    shards = 2 if "index" in name else 1
    checkpoint.save(tmp_path / "model", config, tiny.weights(architecture_of(config)[1], 1), shards=shards)
    (tmp_path / "model/tokenizer.json").write_text("{}")
    (tmp_path / "model" / name).write_text(DEEP)
    with pytest.raises(CheckpointError, match=name):
        convert(tmp_path / "model", tmp_path / "model.m2c")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_store_with_deep_json(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(DEEP)
    with pytest.raises(StoreError, match=name):
        _ = Assets(tmp_path).eos
