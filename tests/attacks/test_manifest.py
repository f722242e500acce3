"""Every rule of the manifest, broken in a manifest whose id and checksum fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import _core
from m2cache_rs.errors import M2CacheError, StoreError, UnsupportedError

from tests.attacks import forge
from tests.attacks.forge import DELETE

BIG = 2**64
FIELDS = (
    *("features", "id", "checksum", "architecture", "encoding", "files"),
    *("roots", "assets", "generator", "source", "equalize", "synthetic"),
)
SIZES = ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab", "context")


def refused(store: Path, error: type[M2CacheError], message: str) -> None:
    """Opening fails with exactly this class, in one line that names the manifest and the rule."""
    with pytest.raises(M2CacheError) as caught:
        _core.Store(str(store))
    assert type(caught.value) is error
    assert message in str(caught.value)
    assert "m2cache.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_the_forge_makes_sound_stores(store: Path) -> None:
    forge.edit_manifest(store, ("generator", "somebody else"))
    assert json.loads(_core.Store(str(store)).manifest())["generator"] == "somebody else"


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_missing(store: Path, field: str) -> None:
    forge.edit_manifest(store, (field, DELETE), seal=False)
    refused(store, StoreError, f"missing field `{field}`")


@pytest.mark.parametrize("place", ["extra", "architecture.extra", "encoding.extra", "encoding.coding.extra"])
def test_a_field_is_unknown(store: Path, place: str) -> None:
    forge.edit_manifest(store, (place, 1))
    refused(store, StoreError, "unknown field `extra`")


@pytest.mark.parametrize("place", ["files.0.extra", "assets.0.extra"])
def test_an_entry_has_an_unknown_field(store: Path, place: str) -> None:
    forge.edit_manifest(store, (place, 1))
    refused(store, StoreError, "unknown field `extra`")


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        ("format", "gguf", StoreError, "is no store manifest"),
        ("format", DELETE, StoreError, "is no store manifest"),
        ("format", "\x1b[2J\n", StoreError, "is no store manifest"),
        ("version", 2, UnsupportedError, "is format version 2; this program reads version 1"),
        ("version", "1", UnsupportedError, 'is format version "1"'),
        ("version", 1.0, UnsupportedError, "is format version 1.0"),
        ("version", BIG, UnsupportedError, "is format version 1"),
        ("version", DELETE, UnsupportedError, "is format version null"),
        ("features", ["hot-first"], UnsupportedError, 'needs the feature "hot-first"'),
        ("features", [["x"]], UnsupportedError, "needs the feature"),
        ("features", "none", StoreError, "breaks its schema"),
        ("roots", ["/mnt/other"], StoreError, "roots is"),
        ("roots", [".", "/mnt/other"], StoreError, 'features names "roots" once if there are several'),
        (
            "features",
            ["roots"],
            StoreError,
            'features names "roots" once if there are several, else not at all',
        ),
        ("features", ["roots", "hot-first"], UnsupportedError, 'needs the feature "hot-first"'),
        ("roots", [".."], StoreError, "roots is"),
        ("roots", [], StoreError, "roots is"),
        ("synthetic", 1, StoreError, "breaks its schema"),
        ("generator", None, StoreError, "breaks its schema"),
    ],
)
def test_the_top(store: Path, place: str, value: Any, error: type[M2CacheError], message: str) -> None:
    forge.edit_manifest(store, (place, value), seal=False)
    refused(store, error, message)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [0, -1, 1.5, "7", None, [3], True, 2**24 + 1, 2**63, 2**64 - 1, BIG, 1e300])
def test_a_size_of_the_model(store: Path, size: str, value: Any) -> None:
    forge.edit_manifest(store, (f"architecture.{size}", value))
    is_count = type(value) is int and 0 <= value < BIG
    refused(store, StoreError, f"architecture.{size} is {value}" if is_count else "breaks its schema")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("layers", 2**14 + 1)], "it must lie in 1..=16384"),
        ([("hidden", 2**20 + 1)], "it must lie in 1..=1048576"),
        ([("heads", 2**24), ("head_dim", 2**24)], "times head_dim 16777216 is above"),
        ([("heads", 3), ("kv_heads", 2)], "heads 3 is no multiple of kv_heads 2"),
        ([("kv_heads", 4)], "heads 2 is no multiple of kv_heads 4"),
        ([("head_dim", 35)], "head_dim 35 is odd"),
        ([("norm_eps", -1e-5)], "norm_eps and attention_scale must be finite"),
        ([("norm_eps", 1e300)], "number out of range"),
        ([("attention_scale", -1e300)], "number out of range"),
        ([("norm_eps", None)], "breaks its schema"),
        ([("activation", "mish")], "unknown variant `mish`"),
        ([("biases", ["q", "q"])], "biases is not in file order"),
        ([("biases", ["k", "q"])], "biases is not in file order"),
        ([("biases", ["head"])], "biases names head"),
        ([("biases", ["w"])], "unknown variant `w`"),
        ([("gated", False), ("biases", ["gate"])], "biases names gate"),
        ([("rope", [])], "rope is no object with a type"),
        ([("rope", None)], "rope is no object with a type"),
        ([("rope", {})], "rope is no object with a type"),
        ([("rope", {"type": ["default"], "theta": 1e4})], "rope is no object with a type"),
        ([("rope", {"type": "default", "theta": "1e4"})], "rope is no object with a type"),
        ([("family", 3)], "breaks its schema"),
        ([("tied", "yes")], "breaks its schema"),
    ],
)
def test_the_architecture(store: Path, changes: list[tuple[str, Any]], message: str) -> None:
    forge.edit_manifest(store, *((f"architecture.{place}", value) for place, value in changes))
    refused(store, StoreError, message)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("moe", {"experts": 8}),
        ("sliding_window", 4096),
        ("qk_norm", True),
        ("soft_cap", 30.0),
        ("partial_rope", 0.5),
        ("parallel_blocks", True),
        ("alibi", True),
        ("rope_layout", "pairs"),
    ],
)
def test_what_is_named_but_not_built(store: Path, place: str, value: Any) -> None:
    forge.edit_manifest(store, (f"architecture.{place}", value))
    refused(store, UnsupportedError, f"architecture.{place} asks for something this version does not compute")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("coding.group", 16, "coding.group is 16; 64 and 32 are known"),
        ("coding.group", 0, "coding.group is 0"),
        ("coding.form", "log", "unknown variant `log`"),
        ("coding.cells", [2, 1, 1], "coding.cells is [2, 1, 1]"),
        ("coding.cells", [1, 1], "breaks its schema"),
        ("coding.cells", [1, 1, 1, 1], "breaks its schema"),
        ("planes", 0, "encoding.planes is 0"),
        ("planes", 4, "encoding.planes is 4"),
        ("planes", 2, "ffn_sections is no partition"),
        ("ffn_sections", [], "ffn_sections is no partition"),
        ("ffn_sections.0", [], "ffn_sections is no partition"),
        ("ffn_sections.0.0", ["gate", "mid"], "ffn_sections is no partition"),
        ("ffn_sections.0.0", ["q", "base"], "ffn_sections is no partition"),
        ("ffn_sections.0.0", ["gate", "top"], "unknown variant `top`"),
        ("ffn_sections.0.0", ["gate"], "breaks its schema"),
    ],
)
def test_the_encoding(store: Path, place: str, value: Any, message: str) -> None:
    forge.edit_manifest(store, (f"encoding.{place}", value))
    refused(store, StoreError, message)


def test_sections_in_another_order_than_the_files_have(store: Path) -> None:
    values = forge.manifest(store)
    values["encoding"]["ffn_sections"].reverse()
    forge.save(store, values)
    with pytest.raises(StoreError, match=r"layer-00000.safetensors: tensor .* stands where the layout has"):
        _core.Store(str(store))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("files", [], "lists 0 files; 2 layers and the embedding make 3"),
        ("files.2", DELETE, "lists 2 files"),
        ("files.0.name", "../sound.m2c/layer-00000.safetensors", "lists the file"),
        (
            "files.0.name",
            "/etc/passwd",
            'lists the file "/etc/passwd" where "layer-00000.safetensors" belongs',
        ),
        ("files.0.name", "layer-00000.safetensors\0", "lists the file"),
        ("files.0.name", "layer-00001.safetensors", "lists the file"),
        ("files.0.name", "x\n" * 5000, "lists the file"),
        ("files.0.bytes", 0, "this architecture makes them"),
        ("files.0.bytes", 2**63, "this architecture makes them"),
        ("files.0.bytes", -1, "breaks its schema"),
        ("files.0.weights", 0, "this architecture makes them"),
        ("files.0.zeros", 2**40, "zeros among"),
        ("files.0.digest", 7, "breaks its schema"),
        ("architecture.layers", 1, "lists 3 files; 1 layers and the embedding make 2"),
        ("architecture.layers", 16384, "lists 3 files; 16384 layers"),
    ],
)
def test_the_list_of_files(store: Path, place: str, value: Any, message: str) -> None:
    forge.edit_manifest(store, (place, value))
    refused(store, StoreError, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../config.json", "is no plain file name"),
        ("/etc/passwd", "is no plain file name"),
        ("a/b", "is no plain file name"),
        ("a\\b", "is no plain file name"),
        ("a\0b", "is no plain file name"),
        ("", "is no plain file name"),
        (".", "is no plain file name"),
        ("..", "is no plain file name"),
        ("m2cache.json", "has the name of another file"),
        ("embed.safetensors", "has the name of another file"),
        ("tokenizer.json", "has the name of another file"),
    ],
)
def test_the_list_of_assets(store: Path, name: str, message: str) -> None:
    forge.edit_manifest(store, ("assets.0.name", name))
    refused(store, StoreError, message)


def test_an_id_that_is_not_of_the_contents(store: Path, foreign: Path) -> None:
    forge.edit_manifest(store, ("id", forge.manifest(foreign)["id"]), seal=False)
    refused(store, StoreError, "does not match the contents")


@pytest.mark.parametrize(
    ("place", "value"),
    [("architecture.norm_eps", 1e-6), ("architecture.rope.theta", 10001.0), ("assets.0.bytes", 5)],
)
def test_an_edit_of_what_determines_the_output(store: Path, place: str, value: Any) -> None:
    forge.edit_manifest(store, (place, value), seal=False)
    refused(store, StoreError, "does not match the contents")


@pytest.mark.parametrize(
    ("place", "value"),
    [("synthetic", False), ("generator", "x"), ("source", {}), ("equalize", {}), ("checksum", "0" * 32)],
)
def test_an_edit_of_the_rest(store: Path, place: str, value: Any) -> None:
    forge.edit_manifest(store, (place, value), seal=False)
    refused(store, StoreError, "does not match its checksum")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xef\xbb\xbf{}", "is no JSON"),
        (b"[]", "is no store manifest"),
        (b"null", "is no store manifest"),
        (b'"m2cache-store"', "is no store manifest"),
        (b'{"format": "m2cache-store"} {}', "is no JSON"),
        (b'{"format": "\xff"}', "is not UTF-8"),
        (b'{"format": "\\ud800"}', "is no JSON"),
        (b'{"format": NaN}', "is no JSON"),
        (b'{"format": -Infinity}', "is no JSON"),
        (b'{"format": 1e999}', "is no JSON"),
        (b"[" * 1_000_000, "recursion limit"),
        (b'{"a":' * 500_000, "recursion limit"),
        (b'{"format":"' + b"x" * (4 << 20) + b'"}', "is above 4194304 bytes"),
        (b" " * (4 << 20) + b"{}", "is above 4194304 bytes"),
    ],
)
def test_a_text_that_is_no_manifest(store: Path, content: bytes, message: str) -> None:
    (store / "m2cache.json").write_bytes(content)
    refused(store, StoreError, message)


@pytest.mark.parametrize(
    "field", ['"layers": 2', '"version": 1', '"planes": 3', '"generator": "golden"', '"zeros": 0']
)
def test_a_name_that_comes_twice(store: Path, field: str) -> None:
    text = json.dumps(forge.manifest(store))
    assert field in text
    (store / "m2cache.json").write_text(text.replace(field, f"{field}, {field}"))
    refused(store, StoreError, "duplicate field")
