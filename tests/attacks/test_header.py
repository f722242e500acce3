"""Headers of a store's files that differ from the one the manifest dictates, under digests that fit them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import _core
from m2cache_rs.errors import StoreError

from tests.attacks import forge
from tests.attacks.headers import SIZED, WHOLE
from tests.reference import format as document

Json = Any
Edit = Callable[[Json, Json], None]

LAYER = "layer-00000.safetensors"
EMBED = "embed.safetensors"
STANDS = "stands where the layout has"
DECLARES = "the header declares sections that the manifest's architecture and encoding do not have"


def refused(store: Path, name: str, message: str) -> None:
    with pytest.raises(StoreError) as caught:
        _core.Store(str(store))
    assert type(caught.value) is StoreError
    assert str(caught.value).startswith(f"{store / name}: ")
    assert message in str(caught.value)


def test_the_forge_leaves_an_unchanged_header_sound(store: Path) -> None:
    forge.edit_header(store, LAYER, lambda entries, declared: None)
    _core.Store(str(store))


def setting(place: str, value: Json) -> Edit:
    """Names of tensors have dots, so steps are divided by slashes."""
    return lambda entries, declared: forge.change(entries, place, value, "/")


def exchange(a: str, b: str, *fields: str) -> Edit:
    """Two tensors trade fields."""

    def edit(entries: Json, declared: Json) -> None:
        for field in fields:
            entries[a][field], entries[b][field] = entries[b][field], entries[a][field]

    return edit


def rename(old: str, new: str) -> Edit:
    def edit(entries: Json, declared: Json) -> None:
        entries[new] = entries.pop(old)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename("q.base", "q.bass"), STANDS),
        (rename("filler.0", "filler.x"), STANDS),
        (rename("norm.attn", "../norm"), STANDS),
        (rename("norm.attn", "n\n\x1b" * 9), STANDS),
        (exchange("q.base", "o.base", "data_offsets"), STANDS),
        (exchange("xxh3.q.base", "xxh3.o.base", "data_offsets"), STANDS),
        (exchange("norm.attn", "norm.ffn", "data_offsets"), STANDS),
        (exchange("k.base", "q.base", "data_offsets", "shape"), STANDS),
        (setting("q.base/shape", [144, 64]), STANDS),
        (setting("q.base/shape", [9216]), STANDS),
        (setting("q.base/dtype", "I8"), STANDS),
        (setting("norm.attn/dtype", "I32"), STANDS),
        (setting("xxh3.q.base/dtype", "I64"), STANDS),
        (setting("q.base/data_offsets/0", 0), "cannot take"),
        (setting("q.base/data_offsets/1", 2**63), "cannot take"),
        (setting("q.base/shape", [2**32, 2**32]), "cannot take"),
        (setting("q.base", forge.DELETE), "leaves a hole before it"),
        (setting("filler.0", forge.DELETE), "leaves a hole before it"),
        (setting("more", {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}), STANDS),
        (setting("__metadata__/more", "x"), "is not written in the format's one way"),
        (setting("__metadata__/m2cache", forge.DELETE), "the header has no m2cache metadata"),
        (setting("__metadata__", forge.DELETE), "the header has no m2cache metadata"),
    ],
)
def test_the_tensors(store: Path, edit: Edit, message: str) -> None:
    forge.edit_header(store, LAYER, edit)
    refused(store, LAYER, message)


def test_one_tensor_more_at_the_end(store: Path) -> None:
    def edit(entries: Json, declared: Json) -> None:
        end = max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
        entries["zzz"] = {"dtype": "U8", "shape": [0], "data_offsets": [end, end]}

    forge.edit_header(store, LAYER, edit)
    refused(store, LAYER, "tensors; the layout has")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("version", 2, DECLARES),
        ("width", 71, DECLARES),
        ("width", 2**63, DECLARES),
        ("width", -1, "breaks its schema"),
        ("coding.form", "symmetric", DECLARES),
        ("coding.group", 32, DECLARES),
        ("coding.cells", [0, 1, 1], DECLARES),
        ("coding.form", "none", "breaks its schema"),
        ("sections", [], DECLARES),
        ("sections.0", forge.DELETE, DECLARES),
        ("sections.0.name", "k.base", DECLARES),
        ("sections.0.parts", [["k", "base"]], DECLARES),
        ("sections.0.parts", [], DECLARES),
        ("sections.0.records", 2**60, DECLARES),
        ("sections.0.payload", 71, DECLARES),
        ("sections.0.stride", 64, DECLARES),
        ("sections.0.stride", 0, DECLARES),
        ("sections.0.check", 0, DECLARES),
        ("sections.0.check", 1, DECLARES),
        ("sections.0.more", 1, "breaks its schema"),
        ("sections.0.digest", None, "breaks its schema"),
        ("vectors", [], DECLARES),
        ("vectors.0.name", "norm.ffn", DECLARES),
        ("more", 1, "unknown field `more`"),
    ],
)
def test_what_is_declared(store: Path, place: str, value: Json, message: str) -> None:
    forge.edit_header(store, LAYER, lambda entries, declared: forge.change(declared, place, value))
    refused(store, LAYER, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "breaks its schema"),
        ("[]", "breaks its schema"),
        ("[" * 3000, "breaks its schema"),
        ("{} {}", "breaks its schema"),
        ('{"version": NaN}', "breaks its schema"),
        ('{"version": 1, "version": 1}', "duplicate field `version`"),
    ],
)
def test_metadata_that_is_no_declaration(store: Path, text: str, message: str) -> None:
    entries = json.loads(forge.header_text(store, LAYER))
    entries["__metadata__"]["m2cache"] = text
    forge.replace_header(store, LAYER, document.compact(entries))
    refused(store, LAYER, message)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace(",", ", ", 1),
        lambda text: " " + text,
        lambda text: text + "\n",
        lambda text: text.replace("q.base", "q\\u002ebase"),
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
    ],
    ids=["a space", "a space in front", "a line end", "an escape", "another order"],
)
def test_the_same_header_in_other_words(store: Path, rewrite: Callable[[str], str]) -> None:
    text = rewrite(forge.header_text(store, LAYER))
    forge.replace_header(store, LAYER, text)
    refused(store, LAYER, "is not written in the format's one way")


@pytest.mark.parametrize("pages", [-1, 1, 25_000])
def test_a_header_of_another_size(store: Path, pages: int) -> None:
    """Even with sizes and digests that fit: the layout knows how long a header is."""
    path = store / EMBED
    before, data = forge.split(path.read_bytes())
    text = forge.header_text(store, EMBED)
    header = forge.padded(text, max(len(text), len(before) + 4096 * pages))
    path.write_bytes(forge.join(header, data))
    forge.edit_manifest(
        store,
        ("files.2.bytes", path.stat().st_size),
        ("files.2.digest", document.digest(forge.join(header))),
    )
    refused(store, "m2cache.json", "this architecture makes them")


@pytest.mark.parametrize("name", SIZED)
def test_a_header_that_breaks_a_rule_of_the_container(store: Path, name: str) -> None:
    text, _, _ = SIZED[name]
    encoded = text if isinstance(text, bytes) else text.encode()
    before, data = forge.split((store / LAYER).read_bytes())
    if len(encoded) <= len(before):
        encoded += b" " * (len(before) - len(encoded))
        (store / LAYER).write_bytes(forge.join(encoded, data))
        refused(store, LAYER, "")
    else:
        (store / LAYER).write_bytes(forge.join(encoded, data)[: len(before) + 8 + len(data)])
        refused(store, LAYER, "the header claims")


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_is_none(store: Path, name: str) -> None:
    content, message = WHOLE[name]
    (store / LAYER).write_bytes(content)
    refused_as_truncated = f"ends at byte {len(content)}, but the manifest needs byte"
    with pytest.raises(StoreError, match=refused_as_truncated):
        _core.Store(str(store))
    size = forge.manifest(store)["files"][0]["bytes"]
    (store / LAYER).write_bytes(content + bytes(size - len(content)))
    refused(store, LAYER, "the header claims" if "claims" in message else "")
