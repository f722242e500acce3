"""Damage in what a sparse layer reads: named, and the engine goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from m2cache_rs._core import Store
from m2cache_rs.errors import DamageError

from tests.attacks import forge
from tests.engines import dense, needed, noise, opened, sparse

RECIPE = sparse("plane", {"top": [4, 4, 2]})
LAYER = "layer-00001.safetensors"


def record_of(store: Path, plane: str, neuron: int) -> tuple[str, int]:
    """The section that holds down's plane, and the byte in its file where the neuron's record begins."""
    files = json.loads(Store(str(store)).layout())["files"]
    (file,) = (one for one in files if one["name"] == LAYER)
    (section,) = (one for one in file["sections"] if f"down.{plane}" in one["name"].split("+"))
    return section["name"], section["offset"] + neuron * section["stride"]


@pytest.mark.parametrize("io", ["psync", "auto"])
@pytest.mark.parametrize("plane", ["base", "mid", "low"])
def test_a_damaged_record_is_named_and_the_rest_stays_usable(
    small: Path, tmp_path: Path, io: str, plane: str
) -> None:
    store = forge.copy(small, tmp_path / "spoilt.m2c")
    x = noise(1, 5)
    truth, neuron = opened(store, RECIPE).ffn(1, x), int(opened(store, RECIPE).scores(1, x).argmax())
    name, at = record_of(store, plane, neuron)
    engine = opened(store, RECIPE, cache=needed(store, RECIPE)["least"], io=io)
    forge.flip(store / LAYER, at + 3)
    for _ in range(2):
        with pytest.raises(
            DamageError, match=rf"{LAYER}: section {name.replace('+', '[+]')}, record {neuron}"
        ):
            engine.ffn(1, x)
    np.testing.assert_array_equal(engine.ffn(0, x), opened(small, RECIPE).ffn(0, x))
    forge.flip(store / LAYER, at + 3)
    np.testing.assert_array_equal(engine.ffn(1, x), truth)


def test_what_no_neuron_needs_is_not_looked_at(small: Path, tmp_path: Path) -> None:
    """A chunk without active neurons is not read, damaged or not."""
    store, x = forge.copy(small, tmp_path / "spoilt.m2c"), noise(1, 5)
    one = sparse("plane", {"top": [1, 0, 0]})
    best = int(opened(small, one).scores(1, x).argmax())
    other = 0 if best >= 256 else 256
    forge.flip(store / LAYER, record_of(store, "low", other)[1] + 3)
    expected = opened(small, one).ffn(1, x)
    np.testing.assert_array_equal(opened(store, one).ffn(1, x), expected)
    with pytest.raises(DamageError, match=f"record {other}"):
        opened(store, dense(16)).ffn(1, x)
