"""Weights of a store as numbers, and stores whose records were moved, against the independent reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from m2cache_rs import DamageError, UsageError
from m2cache_rs._core import Store, StoreWriter

from tests.reference import numbers, store
from tests.sources import is_sound


def shape(path: Path) -> tuple[Store, dict[str, object]]:
    opened = Store(path)
    return opened, json.loads(opened.manifest())


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_rows_are_the_reference_s_to_the_bit(small: Path, bits: int) -> None:
    opened, _ = shape(small)
    expected = store.contents(small)
    for layer, name in ((0, "gate"), (1, "down"), (1, "q"), (0, "o"), (None, "embed"), (None, "head")):
        coded = expected[name if layer is None else f"{layer}.{name}"]
        assert isinstance(coded, numbers.Coded)
        whole = numbers.decode(coded, bits)
        for first, count in ((0, len(whole)), (65, 3), (len(whole) - 1, 1), (7, 0)):
            found = opened.rows(layer, name, first, count, bits)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found.view(np.uint32), whole[first : first + count].view(np.uint32))
    np.testing.assert_array_equal(opened.vector(1, "bias.q"), expected["1.bias.q"])
    np.testing.assert_array_equal(opened.vector(None, "norm.final"), expected["norm.final"])


def test_rows_that_there_are_not(small: Path, tale_mid: Path) -> None:
    opened, _ = shape(small)
    for layer, name, first, count, message in (
        (2, "gate", 0, 1, "layer 2 of .* has no matrix gate"),
        (None, "up", 0, 1, "the ends of .* has no matrix up"),
        (0, "gates", 0, 1, "there is no matrix"),
        (0, "gate", 299, 2, r"records 299..301 of gate, which has 300"),
        (0, "gate", 2**63, 2**63, "of gate, which has 300"),
    ):
        with pytest.raises(UsageError, match=message):
            opened.rows(layer, name, first, count, 4)
    with pytest.raises(UsageError, match="a level of 5 bits"):
        opened.rows(0, "gate", 0, 1, 5)
    with pytest.raises(UsageError, match="does not store the low plane"):
        Store(tale_mid).rows(0, "gate", 0, 1, 16)


def damaged(path: Path, target: Path, section: str, record: int) -> Path:
    """A copy with one byte of a record changed."""
    target.mkdir()
    for file in path.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    layout = json.loads(Store(path).layout())["files"][0]
    place = next(one for one in layout["sections"] if section in one["name"].split("+"))
    content = bytearray((target / layout["name"]).read_bytes())
    content[place["offset"] + record * place["stride"]] ^= 1
    (target / layout["name"]).write_bytes(content)
    return target


def test_damaged_rows_are_named(small: Path, tmp_path: Path) -> None:
    opened, _ = shape(damaged(small, tmp_path / "bad.m2c", "gate.mid", 17))
    assert opened.rows(0, "gate", 0, 17, 8).shape[0] == 17
    with pytest.raises(DamageError, match=r"record.* 17"):
        opened.rows(0, "gate", 10, 20, 8)


def moved(source: Path, target: Path, order: np.ndarray | None) -> str:
    """A store with the records of another, neurons of every layer in an order."""
    opened, manifest = shape(source)
    target.mkdir()
    writer = StoreWriter(target, json.dumps(manifest["architecture"]), json.dumps(manifest["encoding"]))
    for name, _ in writer.files():
        writer.begin(name)
        writer.copy(opened, order if name.startswith("layer-") else None)
        writer.end()
    extra = {"generator": "test", "source": {}, "equalize": None, "synthetic": False, "assets": []}
    return writer.finish(json.dumps(extra))


def test_a_copy_has_the_codes_and_an_order_moves_neurons_alike(small: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(300).astype(np.uint32)
    ids = [moved(small, tmp_path / "same.m2c", None), moved(small, tmp_path / "moved.m2c", order)]
    assert is_sound(tmp_path / "same.m2c")
    assert is_sound(tmp_path / "moved.m2c")
    assert len(set(ids)) == 2
    before, same, after = map(store.weights, (small, tmp_path / "same.m2c", tmp_path / "moved.m2c"))
    assert before.keys() == same.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(same[name], values)
        neuron = name.split(".", 1)[-1] in ("gate", "up", "down", "bias.gate", "bias.up")
        np.testing.assert_array_equal(after[name], values[order] if neuron else values)
    entries = [json.loads(Store(path).manifest())["files"] for path in (small, tmp_path / "moved.m2c")]
    assert [one["zeros"] for one in entries[0]] == [one["zeros"] for one in entries[1]]


def test_orders_that_are_none_and_damage_are_refused(small: Path, tmp_path: Path) -> None:
    order = np.arange(300, dtype=np.uint32)
    for wrong in (order[:-1], np.append(order[:-1], 0), np.append(order[:-1], 300)):
        with pytest.raises(UsageError, match=r"must list each of 0\.\.300 once"):
            moved(small, tmp_path / f"{len(wrong)}-{wrong[-1]}", wrong.astype(np.uint32))
    for section in ("up.base", "q.base"):
        bad = damaged(small, tmp_path / f"{section}.m2c", section, 9)
        with pytest.raises(DamageError, match="record"):
            moved(bad, tmp_path / f"from-{section}", order)


def test_stores_of_other_shapes_are_refused(small: Path, tale: Path, tmp_path: Path) -> None:
    _, manifest = shape(small)
    writer = StoreWriter(tmp_path, json.dumps(manifest["architecture"]), json.dumps(manifest["encoding"]))
    writer.begin("layer-00000.safetensors")
    with pytest.raises(UsageError, match="another architecture or encoding"):
        writer.copy(Store(tale))
