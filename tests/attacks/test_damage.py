"""Bytes that changed: no flip anywhere goes unnoticed, and what is damaged has a name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs import Model, _core
from m2cache_rs.errors import DamageError, M2CacheError, NumericsError

from tests.attacks import forge
from tests.reference import format as document
from tests.reference.format import Array

FIRST, EMBED = "layer-00000.safetensors", "embed.safetensors"
LAYOUTS = document.layouts(
    json.loads(forge.architecture().to_json()),
    {
        "coding": {"form": "affine", "group": 64, "cells": [1, 1, 1]},
        "planes": 3,
        "ffn_sections": [
            [["gate", "base"], ["up", "base"]],
            [["down", "base"]],
            [["gate", "mid"], ["up", "mid"]],
            [["down", "mid"]],
            [["gate", "low"], ["up", "low"]],
            [["down", "low"]],
        ],
    },
)
SECTIONS = [(layout.name, section) for layout in (LAYOUTS[0], LAYOUTS[-1]) for section in layout.sections]


def places(store: Path, name: str) -> dict[str, tuple[int, int]]:
    """Where the tensors of a file begin and end in it."""
    header, _ = forge.split((store / name).read_bytes())
    (layout,) = (layout for layout in LAYOUTS if layout.name == name)
    base = 8 + len(header)
    return {tensor: (base + begin, base + end) for tensor, _, _, begin, end in layout.tensors()}


def logits(store: Path, verify: str = "first") -> Array:
    with Model.open(store, verify=verify, threads=1) as model:
        return model.logits(forge.IDS)


@pytest.fixture(scope="module")
def truth(sound: Path) -> Array:
    return logits(sound)


def damages(store: Path) -> Iterator[str]:
    """What opening or verifying says."""
    try:
        opened = _core.Store(str(store))
    except M2CacheError as error:
        yield str(error)
        return
    manifest = json.loads(opened.manifest())
    for entry in (*manifest["files"], *manifest["assets"]):
        yield from (message for message, _ in opened.verify(entry["name"]))


@pytest.mark.parametrize("name", ["m2cache.json", FIRST, EMBED, *forge.ASSETS])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flip_anywhere_is_found(
    store: Path, sound: Path, truth: Array, name: str, data: st.DataObject
) -> None:
    """By opening or by verify; and a run either fails by name or gives the same bits."""
    whole = (sound / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1), label="byte")
    flipped = whole[at] ^ data.draw(st.integers(1, 255), label="bits")
    (store / name).write_bytes(whole[:at] + bytes([flipped]) + whole[at + 1 :])
    found = list(damages(store))
    assert all("spoilt.m2c" in message for message in found)
    assert any(name in message for message in found) or says_the_same(store / name, whole)
    check_run(store, name, truth)


def check_run(store: Path, name: str, truth: Array) -> None:
    """A run fails by name or gives the same bits."""
    try:
        found = logits(store)
    except M2CacheError as error:
        if name not in str(error):
            raise
    else:
        np.testing.assert_array_equal(found, truth)


def says_the_same(path: Path, whole: bytes) -> bool:
    """White space of the manifest is nobody's."""
    return path.name == "m2cache.json" and json.loads(path.read_bytes()) == json.loads(whole)


@pytest.mark.parametrize(("name", "section"), SECTIONS, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("where", ["first", "last", "padding"])
def test_a_damaged_record_is_named(store: Path, name: str, section: document.Section, where: str) -> None:
    record = 0 if where == "first" else section.records - 1
    if name == EMBED and section.parts[0][0] == "embed":
        record = forge.IDS[0]  # rows of other tokens are not read by a run
    inside = section.stride - 1 if where == "padding" else section.sizes[0] // 2
    begin, _ = places(store, name)[section.name]
    forge.flip(store / name, begin + record * section.stride + inside)
    unit = record // section.check * section.check
    last = min(unit + section.check, section.records) - 1
    shown = f"section {section.name}, record {unit}" + (f" to {last}" if last > unit else "")
    ((message, place),) = _core.Store(str(store)).verify(name)
    assert place == (section.name, unit, last - unit + 1)
    assert message.startswith(f"{store / name}: {shown}: checksum mismatch (stored ")
    with pytest.raises(DamageError) as caught:
        logits(store)
    assert str(caught.value) == message


@pytest.mark.parametrize(("name", "section"), SECTIONS, ids=lambda value: getattr(value, "name", value))
def test_a_damaged_table_is_named(store: Path, name: str, section: document.Section) -> None:
    _, end = places(store, name)[f"xxh3.{section.name}"]
    forge.flip(store / name, end - 1)
    (table, _), (record, _) = _core.Store(str(store)).verify(name)
    assert f"{name}: the checksum table of section {section.name} does not match its digest" in table
    assert f"section {section.name}, record" in record
    with pytest.raises(DamageError, match=name):
        logits(store)


@pytest.mark.parametrize(("name", "section"), SECTIONS, ids=lambda value: getattr(value, "name", value))
def test_records_of_another_store_with_their_table(
    store: Path, foreign: Path, name: str, section: document.Section
) -> None:
    """Records and checksums agree with each other, but the header's digest knows another table."""
    whole, other = bytearray((store / name).read_bytes()), (foreign / name).read_bytes()
    for tensor in (section.name, f"xxh3.{section.name}"):
        begin, end = places(store, name)[tensor]
        whole[begin:end] = other[begin:end]
    (store / name).write_bytes(whole)
    ((message, _),) = _core.Store(str(store)).verify(name)
    assert f"{name}: the checksum table of section {section.name} does not match its digest" in message
    with pytest.raises(DamageError) as caught:
        logits(store)
    assert str(caught.value) == message


@pytest.mark.parametrize("mode", ["first", "always", "never"])
@pytest.mark.parametrize(
    ("name", "vector"), [(layout.name, vector) for layout in LAYOUTS for vector, _ in layout.vectors]
)
def test_a_damaged_vector_is_named(store: Path, name: str, vector: str, mode: str) -> None:
    """Whatever the mode: vectors are read once, when a model is opened."""
    begin, _ = places(store, name)[vector]
    forge.flip(store / name, begin + 2)
    ((message, _),) = _core.Store(str(store)).verify(name)
    assert f"{name}: vector {vector} does not match its digest" in message
    with pytest.raises(DamageError, match=f"vector {vector} does not match"):
        logits(store, mode)


@pytest.mark.parametrize("name", [layout.name for layout in LAYOUTS])
def test_a_damaged_filler_is_named_and_harmless(store: Path, truth: Array, name: str) -> None:
    fillers = {tensor: place for tensor, place in places(store, name).items() if tensor.startswith("filler.")}
    for tensor, (begin, end) in fillers.items():
        forge.flip(store / name, (begin + end) // 2)
        ((message, _),) = _core.Store(str(store)).verify(name)
        assert message.endswith(f"{name}: {tensor} is not all zero")
        np.testing.assert_array_equal(logits(store), truth)
        forge.flip(store / name, (begin + end) // 2)


@pytest.mark.parametrize("name", list(forge.ASSETS))
def test_an_edited_asset_is_named(store: Path, name: str) -> None:
    content = (store / name).read_bytes()
    for edited in (content.replace(b"e", b"E"), content + b" ", b""):
        (store / name).write_bytes(edited)
        ((message, _),) = _core.Store(str(store)).verify(name)
        assert message.startswith(f"{store / name}: ")
        assert "does not match its digest" in message


def test_many_damages_are_counted_not_listed(store: Path, tmp_path: Path) -> None:
    config = forge.CONFIG | {"vocab_size": 300, "num_hidden_layers": 1}
    large = tmp_path / "large.m2c"
    forge.write(large, config=config)
    header, data = forge.split((large / EMBED).read_bytes())
    (large / EMBED).write_bytes(forge.join(header, data[:8192] + bytes(b ^ 255 for b in data[8192:])))
    found = _core.Store(str(large)).verify(EMBED)
    assert any("200 more damaged places" in message for message, _ in found)
    assert len(found) < 700


def test_a_record_that_is_not_a_number_is_an_error(store: Path) -> None:
    """Scales may hold anything; with checksums that fit, NaN reaches the logits and is named there."""
    begin, _ = places(store, FIRST)["q.base"]
    whole = bytearray((store / FIRST).read_bytes())
    whole[begin + 64 : begin + 68] = np.array([np.nan, np.nan], np.float16).tobytes()
    table, _ = places(store, FIRST)["xxh3.q.base"]
    section = next(s for s in LAYOUTS[0].sections if s.name == "q.base")
    whole[table : table + 8] = document.xxhash.xxh3_64_intdigest(
        bytes(whole[begin : begin + 64 * section.stride])
    ).to_bytes(8, "little")
    (store / FIRST).write_bytes(whole)
    digest = document.digest(bytes(whole[table : table + 16]))

    def edit(entries: Any, declared: Any) -> None:
        declared["sections"][0]["digest"] = digest

    forge.edit_header(store, FIRST, edit)
    assert list(damages(store)) == []
    (store / "tokenizer.json").unlink()
    with Model.open(store, threads=1) as model:
        with pytest.raises(NumericsError, match="finite"):
            list(model.generate(forge.IDS, max_new_tokens=2))
        with pytest.raises(NumericsError, match="position 1 are not finite"):
            model.logits(forge.IDS)
