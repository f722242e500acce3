"""Stores hot-first: neurons move as they are stored, together, and the model stays what it was."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model, StoreIOError, UsageError
from m2cache_rs.convert import convert, partial
from m2cache_rs.convert.reorder import reorder
from m2cache_rs.errors import DamageError
from m2cache_rs.predict.heads import save as save_heads
from m2cache_rs.predict.hot import hot_first
from m2cache_rs.predict.ridge import Line
from m2cache_rs.recipe import predictors, tuned
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.heads import HeadPredictor
from m2cache_rs.recipe.neurons import LayerProfile, NeuronProfile
from m2cache_rs.recipe.recipe import Recipe, Sparse
from m2cache_rs.recipe.tuned import Measured, Tuned
from m2cache_rs.runtime.opening import Opened
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.reference import store
from tests.sources import is_sound
from tests.stores import EXAMPLE, SMALL
from tests.test_neuron_statistics import streamed

IDS = np.random.default_rng(4).integers(0, SMALL["vocab_size"], 70)
SUMMED_OTHERWISE = 2e-6
"""Sums of down in another order, relative to the deviation of the logits: rounding of f32."""
NEURONS = ("gate", "up", "down", "bias.gate", "bias.up")


def orders(neurons: int = 300, layers: int = 2) -> list[Any]:
    return [np.random.default_rng(i).permutation(neurons).astype(np.uint32) for i in range(layers)]


def move(source: Path, target: Path, **changes: Any) -> str:
    given = {"orders": orders(), "beside": lambda *_: None, "progress": lambda *_: None} | changes
    return reorder(source, target, **given)


def test_neurons_move_alike_and_nothing_else_does(small: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    identity = move(small, tmp_path / "new.m2c", progress=lambda *one: told.append(one))
    opened, before = Opened(tmp_path / "new.m2c"), Opened(small)
    assert is_sound(tmp_path / "new.m2c")
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert opened.manifest["id"] == identity != before.manifest["id"]
    assert opened.manifest["source"] == {
        "reordered": before.manifest["id"],
        "source": before.manifest["source"],
    }
    for name in ("architecture", "encoding", "assets", "equalize", "synthetic", "version", "features"):
        assert opened.manifest[name] == before.manifest[name]
    codes, found = store.weights(small), store.weights(tmp_path / "new.m2c")
    for name, values in codes.items():
        layer, _, matrix = name.partition(".")
        expected = values[orders()[int(layer)]] if matrix in NEURONS else values
        np.testing.assert_array_equal(found[name], expected)


def test_the_model_is_the_same_up_to_the_order_of_sums(small: Path, tmp_path: Path) -> None:
    move(small, tmp_path / "new.m2c")
    logits = []
    for path in (small, tmp_path / "new.m2c"):
        with Model.open(path, kv="f32") as model:
            logits.append(model.logits(IDS))
    assert np.abs(logits[1] - logits[0]).max() / logits[0].std() < SUMMED_OTHERWISE
    assert (logits[1] != logits[0]).any(), "the order did change"


def test_the_same_call_makes_the_same_store(small: Path, tmp_path: Path) -> None:
    assert move(small, tmp_path / "a.m2c") == move(small, tmp_path / "b.m2c")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_move_never_opens_and_is_resumed(small: Path, tmp_path: Path, stop: Any) -> None:
    def stopped(done: int, total: int) -> None:
        if done == 2:
            raise stop

    with pytest.raises((KeyboardInterrupt, StoreIOError)):
        move(small, tmp_path / "new.m2c", progress=stopped)
    assert [one.name for one in tmp_path.iterdir()] == ["new.m2c.partial"]
    stamp = (tmp_path / "new.m2c.partial/layer-00000.safetensors").stat().st_mtime_ns
    move(small, tmp_path / "new.m2c")
    assert (tmp_path / "new.m2c/layer-00000.safetensors").stat().st_mtime_ns == stamp
    assert is_sound(tmp_path / "new.m2c")
    assert move(small, tmp_path / "other.m2c") == Opened(tmp_path / "new.m2c").manifest["id"]


def test_another_order_does_not_take_over_what_was_begun(small: Path, tmp_path: Path) -> None:
    def stopped(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(small, tmp_path / "new.m2c", progress=stopped)
    same = [np.arange(300, dtype=np.uint32)] * 2
    move(small, tmp_path / "new.m2c", orders=same)
    found, expected = store.weights(tmp_path / "new.m2c"), store.weights(small)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_places_and_sources_that_are_refused(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken.m2c").mkdir()
    for target, message in (
        (tmp_path / "taken.m2c", "exists already; name a place for a new store"),
        (small, "exists already"),
        (small / "inside.m2c", "lies inside the source"),
        (tmp_path / "none/new.m2c", "does not exist"),
        (tmp_path / "new.partial", "cannot name a store"),
    ):
        with pytest.raises(UsageError, match=message):
            move(small, target)
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000}))
    with pytest.raises(StoreIOError, match="not enough space"):
        move(small, tmp_path / "new.m2c")
    assert [one.name for one in tmp_path.iterdir()] == ["taken.m2c"]


def test_a_damaged_source_is_named(small: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.m2c"
    bad.mkdir()
    for one in small.iterdir():
        (bad / one.name).write_bytes(one.read_bytes())
    (bad / "config.json").write_text("{}")
    with pytest.raises(DamageError, match=r"config\.json"):
        move(bad, tmp_path / "new.m2c")
    (bad / "config.json").write_bytes((small / "config.json").read_bytes())
    content = bytearray((bad / "layer-00001.safetensors").read_bytes())
    content[-5000] ^= 255
    (bad / "layer-00001.safetensors").write_bytes(content)
    with pytest.raises(DamageError, match=r"layer-00001\.safetensors"):
        move(bad, tmp_path / "new.m2c")
    assert not (tmp_path / "new.m2c").exists()


def test_hot_first_sorts_by_frequency_and_the_profile_moves_along(small: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    hot = rng.permutation(np.linspace(0.1, 3, 300))
    h = (np.abs(rng.standard_normal((40, 300))) * hot).astype(np.float32)
    opened = Opened(small)
    layers = (streamed(h, h, {0}, []), streamed(h[:, ::-1].copy(), h[:, ::-1].copy(), {0}, []))
    profile = NeuronProfile(opened.manifest["id"], "text", 40, 16, layers)
    identity, _ = hot_first(opened, profile, tmp_path / "hot.m2c", lambda *_: None)
    moved = NeuronProfile.load(tmp_path / "hot.m2c", identity, 2, 300)
    origin = json.loads((tmp_path / "hot.m2c/profiles/order.json").read_text())
    assert (origin["store"], origin["source"]) == (identity, profile.store)
    weights = [store.weights(path) for path in (small, tmp_path / "hot.m2c")]
    for layer, order in enumerate(origin["layers"]):
        total = np.sum(moved.layers[layer].frequency, axis=0)
        assert (np.diff(total) <= 0).all()
        np.testing.assert_array_equal(total, np.sum(layers[layer].frequency, axis=0)[order])
        for name in ("gate", "up", "down"):
            key = f"{layer}.{name}"
            np.testing.assert_array_equal(weights[1][key], weights[0][key][order])
        assert moved.layers[layer].thresholds == layers[layer].thresholds


def statistics() -> LayerProfile:
    """Of some forty tokens."""
    h = np.abs(np.random.default_rng(8).standard_normal((40, 300))).astype(np.float32)
    return streamed(h, h, {0}, [])


def test_what_was_measured_moves_with_the_neurons(small: Path, tmp_path: Path) -> None:
    source = shutil.copytree(small, tmp_path / "small.m2c", copy_function=os.link)
    opened, rng = Opened(source), np.random.default_rng(5)
    spec, id = opened.architecture, opened.manifest["id"]
    profile = NeuronProfile(id, "text", 40, 16, (statistics(),) * 2)
    profile.save(source)
    factors = {
        f"layer.{layer}.{part}": rng.random(shape).astype(dtype)
        for layer in range(2)
        for part, shape, dtype in (
            ("down", (4, spec.hidden), np.float16),
            ("up", (2 * spec.ffn, 4), np.float16),
            ("bias", (spec.ffn,), np.float32),
            ("weight", (spec.ffn,), np.float32),
        )
    }
    save_file(factors, predictors.path_of(source, "svd"), {"store": id, "kind": "svd", "bits": "8", "x": "y"})
    save_file(factors, predictors.path_of(source, "old"), {"store": "other", "kind": "svd", "bits": "8"})
    save_heads(source, id, [Line(rng.random((spec.heads, spec.hidden)), rng.random(spec.heads))] * 2, 300)
    measured = Measured(0.1, None, 9.0, 1e6, 5.0, 300, "text")
    plane = Recipe(16, 16, 16, 16, Sparse("plane", (Shares(0.5, (0.25, 0.25, 0.5)),)))
    ranked = replace(plane, ffn=Sparse("lowrank", (Shares(0.5, (0.0, 1.0, 0.0)),), predictor="svd"))
    known = {"high": Tuned(plane, measured), "fast": Tuned(ranked, measured, tuned.files_of(source, ranked))}
    tuned.save(source, id, known)

    target = tmp_path / "hot.m2c"
    identity, moved = hot_first(opened, profile, target, lambda *_: None)
    assert moved.carried == ["predictor-svd.safetensors", "query-heads.safetensors", "recipes.json"]
    assert list(moved.left) == ["predictor-old.safetensors"]
    assert "was made for another store" in moved.left["predictor-old.safetensors"]
    order = np.array(statistics().hottest())
    before, after = (
        list(predictors.Predictor(path, "svd", one, spec).layers())
        for path, one in ((source, id), (target, identity))
    )
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new.down, old.down)
        np.testing.assert_array_equal(new.up, np.concatenate([old.up[:300][order], old.up[300:][order]]))
        np.testing.assert_array_equal(new.bias, old.bias[order])
        np.testing.assert_array_equal(new.weight, old.weight[order])
    with safe_open(predictors.path_of(target, "svd"), "np") as file:
        assert file.metadata() == {"store": identity, "kind": "svd", "bits": "8", "x": "y"}
        assert file.get_slice("layer.0.up").get_dtype() == "F16"
    heads = [
        list(HeadPredictor(path, one, spec).layers()) for path, one in ((source, id), (target, identity))
    ]
    for given, found in zip(*heads, strict=True):
        np.testing.assert_array_equal(found.weight, given.weight)
    assert tuned.load(target, identity) == known
    for quality, cost in (("high", measured), ("fast", None)):
        with Model.open(target, quality=quality) as model:
            assert model.chosen.measured == cost


def test_striped_stores_become_one_directory(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    convert(EXAMPLE, tmp_path / "tale.m2c", stripe=[tmp_path / "disk"], notify=lambda _: None)
    neurons = [np.arange(768, dtype=np.uint32)[::-1].copy()] * 6
    move(tmp_path / "tale.m2c", tmp_path / "one.m2c", orders=neurons)
    assert Opened(tmp_path / "one.m2c").manifest["roots"] == ["."]
    assert is_sound(tmp_path / "one.m2c")
