"""Conversion: what the store holds, that it is the same every time, and that it goes on where it stopped."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import _core
from m2cache_rs.convert import ConvertReport, Progress, convert, files, measured
from m2cache_rs.convert.measured import Measured
from m2cache_rs.convert.tiles import tiles

from tests.reference import checkpoint, numbers, store
from tests.sources import CONFIG, EXAMPLE, add_tensors, contents, is_sound, make, model, rewrite

__all__ = ["model"]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"form": "affine", "planes": "mid", "dtype": "F32"},
    {"group": 32, "planes": "base", "dtype": "F16"},
    {"form": "affine", "group": 32, "sections": "bundled", "shards": 3},
    {"sections": "gated", "dtype": "F16", "shards": 2},
    {"sections": "gated", "planes": "mid"},
    {"tie_word_embeddings": True, "hidden_act": "relu"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_store_holds_the_coded_weights(variant: dict[str, Any], tmp_path: Path) -> None:
    options = {name: variant[name] for name in ("form", "group", "planes", "sections") if name in variant}
    source = make(tmp_path / "model", **{k: v for k, v in variant.items() if k not in options})
    convert(source, tmp_path / "tiny.m2c", equalize=False, **options)
    found, (_, _, wanted) = store.weights(tmp_path / "tiny.m2c"), checkpoint.load(source)
    bits = {"base": 4, "mid": 8, "all": 16}[options.get("planes", "all")]
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        if values.ndim == 2:
            coded = numbers.encode(values, options.get("form", "affine"), options.get("group", 64))
            values = numbers.decode(coded, bits)
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert is_sound(tmp_path / "tiny.m2c")


@pytest.mark.parametrize("budget", [1, 200_000])
def test_tiles_leave_no_trace(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    convert(model, tmp_path / "whole.m2c", equalize=True)
    monkeypatch.setattr(files, "tiles", lambda parts, records, _=0: tiles(parts, records, budget))
    convert(model, tmp_path / "tiled.m2c", equalize=True)
    assert contents(tmp_path / "whole.m2c") == contents(tmp_path / "tiled.m2c")


def test_tiles_are_cut_at_checksum_units(model: Path) -> None:
    from m2cache_rs.convert.open import open_checkpoint

    opened = open_checkpoint(model)
    parts = {name: opened.layer(0)[name] for name in ("gate", "up", "down")}
    cuts = [(tile.first, len(tile.matrices["down"])) for tile in tiles(parts, 100, budget=1)]
    opened.close()
    assert cuts == [(0, 64), (64, 36)]


def test_the_same_source_gives_identical_files(model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(model, moved)
    first = convert(model, tmp_path / "a.m2c")
    second = convert(moved, tmp_path / "elsewhere" / "b.m2c")
    assert first.id == second.id
    assert contents(tmp_path / "a.m2c") == contents(tmp_path / "elsewhere" / "b.m2c")
    manifest = (tmp_path / "a.m2c" / "m2cache.json").read_text()
    assert str(tmp_path) not in manifest


def test_the_models_own_files_travel_unchanged(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "tiny.m2c")
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "tiny.m2c" / name).read_bytes() == (model / name).read_bytes()


@pytest.mark.parametrize(
    ("activation", "preset"),
    [("silu", "split"), ("gelu", "split"), ("relu", "bundled"), ("relu2", "bundled")],
)
def test_the_default_sections_suit_the_activation(activation: str, preset: str, tmp_path: Path) -> None:
    source = make(tmp_path / "model", hidden_act=activation)
    assert convert(source, tmp_path / "tiny.m2c").sections == preset


def test_split_keeps_gate_and_up_apart_from_down_in_every_plane(tmp_path: Path) -> None:
    convert(make(tmp_path / "model"), tmp_path / "tiny.m2c", sections="split")
    (layer, *_) = _layout(tmp_path / "tiny.m2c")["files"]
    names = [section["name"] for section in layer["sections"] if section["parts"][0][0] in ("gate", "down")]
    planes = ("base", "mid", "low")
    assert names == [name for plane in planes for name in (f"gate.{plane}+up.{plane}", f"down.{plane}")]


def test_bits_per_weight_are_what_the_store_reads(tmp_path: Path) -> None:
    report = convert(EXAMPLE, tmp_path / "tale.m2c", form="affine", group=32)
    assert report.bits_per_weight == {4: 5.0, 8: 9.0, 16: 17.0}
    sections = [section for file in _layout(tmp_path / "tale.m2c")["files"] for section in file["sections"]]
    assert sum(section["payload"] * section["records"] for section in sections) * 8 == 17 * report.weights


def _layout(path: Path) -> dict[str, Any]:
    layout: dict[str, Any] = json.loads(_core.Store(str(path)).layout())
    return layout


def test_matrices_of_one_neuron_may_differ_in_dtype(model: Path, tmp_path: Path) -> None:
    spec = checkpoint.load(model)[1]
    mixed = {"0.gate": "F16", "0.up": "F32"}
    rewrite(model, {tensor.name: mixed.get(name, "BF16") for name, tensor in checkpoint.tensors(spec)})
    convert(model, tmp_path / "tiny.m2c")
    found = store.weights(tmp_path / "tiny.m2c")
    for name in ("0.gate", "0.up", "0.down"):
        np.testing.assert_array_equal(
            found[name], numbers.decode(numbers.encode(checkpoint.load(model)[2][name]))
        )


def test_exact_zeros_are_counted(tmp_path: Path) -> None:
    source = make(tmp_path / "model")
    named = checkpoint.load(source)[2]
    named["1.down"][3, 10:20] = 0  # ten in one group
    named["1.q"][5, :] = 0  # a group of zeros decodes to zero, and so does not count
    checkpoint.save(source, CONFIG, named, "BF16")
    report = convert(source, tmp_path / "tiny.m2c")
    assert report.zeros == 10
    assert report.zero_share == 10 / report.weights
    assert report.weights == sum(values.size for values in named.values() if values.ndim == 2)
    assert not store.weights(tmp_path / "tiny.m2c")["1.q"][5].any()


def test_tensors_the_model_does_not_use_are_named_once(model: Path, tmp_path: Path) -> None:
    add_tensors(model, ["adapter.left", "adapter.right", "model.layers.0.self_attn.rotary_emb.inv_freq"])
    told: list[str] = []
    report = convert(model, tmp_path / "tiny.m2c", notify=told.append)
    assert told == list(report.notes)
    assert told == ["the checkpoint has 2 tensors that this model does not use: adapter.left, adapter.right"]


def test_progress_counts_what_is_read(model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    report = convert(model, tmp_path / "tiny.m2c", equalize=False, progress=seen.append)
    matrices = [v.size for v in checkpoint.load(model)[2].values() if v.ndim == 2]
    assert seen[-1].done == seen[-1].total == 2 * sum(matrices)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert report.source_bytes == 2 * sum(v.size for v in checkpoint.load(model)[2].values())


def interrupted(
    model: Path,
    target: Path,
    files_done: int,
    error: Callable[[], BaseException] = KeyboardInterrupt,
    **options: Any,
) -> None:
    """Runs a conversion until it is about to begin another file after `files_done`."""

    def stop(progress: Progress) -> None:
        if progress.file == f"layer-{files_done:05}.safetensors":
            raise error()

    with pytest.raises(type(error())):
        convert(model, target, progress=stop, **options)


@pytest.mark.parametrize("done", [1, 2])
def test_a_conversion_goes_on_where_it_stopped(model: Path, tmp_path: Path, done: int) -> None:
    convert(model, tmp_path / "whole.m2c")
    told: list[str] = []
    interrupted(model, tmp_path / "tiny.m2c", done)
    assert not (tmp_path / "tiny.m2c").exists()
    report = convert(model, tmp_path / "tiny.m2c", notify=told.append)
    assert report.resumed_files == done
    assert told == [f"resuming: {done} of 4 files are finished already"]
    assert contents(tmp_path / "tiny.m2c") == contents(tmp_path / "whole.m2c")
    assert not (tmp_path / "tiny.m2c.partial").exists()


def test_progress_begins_at_what_is_done(model: Path, tmp_path: Path) -> None:
    interrupted(model, tmp_path / "tiny.m2c", 2)
    seen: list[Progress] = []
    convert(model, tmp_path / "tiny.m2c", progress=seen.append, notify=lambda _: None)
    assert seen[0].done == seen[0].resumed > 0
    assert seen[-1].done == seen[-1].total


def test_nothing_is_left_before_the_first_file_is_finished(model: Path, tmp_path: Path) -> None:
    interrupted(model, tmp_path / "tiny.m2c", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def _other_options(model: Path) -> dict[str, Any]:
    return {"form": "symmetric"}


def _other_weights(model: Path) -> dict[str, Any]:
    _, _, named = checkpoint.load(model)
    named["0.q"][0, 0] += 1
    checkpoint.save(model, CONFIG, named, "BF16")
    return {}


def _other_config(model: Path) -> dict[str, Any]:
    (model / "config.json").write_text(json.dumps(CONFIG | {"rms_norm_eps": 1e-6}))
    return {}


@pytest.mark.parametrize("change", [_other_options, _other_weights, _other_config])
def test_a_change_starts_over(model: Path, tmp_path: Path, change: Callable[[Path], dict[str, Any]]) -> None:
    interrupted(model, tmp_path / "tiny.m2c", 2)
    options = change(model)
    told: list[str] = []
    report = convert(model, tmp_path / "tiny.m2c", notify=told.append, **options)
    convert(model, tmp_path / "whole.m2c", **options)
    assert report.resumed_files == 0
    assert "starting over" in told[0]
    assert contents(tmp_path / "tiny.m2c") == contents(tmp_path / "whole.m2c")


def test_a_damaged_leftover_is_written_again(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "whole.m2c")
    interrupted(model, tmp_path / "tiny.m2c", 2)
    damaged = tmp_path / "tiny.m2c.partial" / "layer-00000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    report = convert(model, tmp_path / "tiny.m2c", notify=lambda _: None)
    assert report.resumed_files == 1
    assert contents(tmp_path / "tiny.m2c") == contents(tmp_path / "whole.m2c")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"plan": 1, "entries": []}', '{"plan": {}, "entries": [1]}']
)
def test_a_broken_journal_starts_over(model: Path, tmp_path: Path, text: str) -> None:
    convert(model, tmp_path / "whole.m2c")
    interrupted(model, tmp_path / "tiny.m2c", 2)
    (tmp_path / "tiny.m2c.partial" / "convert.journal").write_text(text)
    assert convert(model, tmp_path / "tiny.m2c", notify=lambda _: None).resumed_files == 0
    assert contents(tmp_path / "tiny.m2c") == contents(tmp_path / "whole.m2c")


def test_force_replaces_a_store_in_one_step(model: Path, tmp_path: Path) -> None:
    old = convert(model, tmp_path / "tiny.m2c", planes="base")
    new = convert(model, tmp_path / "tiny.m2c", force=True)
    assert old.id != new.id
    assert json.loads(_core.Store(str(tmp_path / "tiny.m2c")).manifest())["id"] == new.id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "tiny.m2c"]


def measure(store: Path) -> dict[str, bytes]:
    """Files of profiles, one of which somebody is still writing; those that are finished."""
    (store / "profiles").mkdir()
    (store / "profiles/.0123.tmp").write_bytes(b"half")
    found = {"neurons.json": b"{}", "predictor-svd.safetensors": bytes(range(256))}
    for name, content in found.items():
        (store / "profiles" / name).write_bytes(content)
    return found


def test_what_was_measured_of_the_same_store_is_kept(model: Path, tmp_path: Path) -> None:
    target, said = tmp_path / "tiny.m2c", list[str]()
    old = convert(model, target)
    kept = measure(target)
    new = convert(model, target, force=True, notify=said.append)
    assert (new.id, new.bytes) == (old.id, old.bytes)
    assert contents(target / "profiles") == kept
    (word,) = said
    assert "has profiles (neurons.json, predictor-svd.safetensors): they are kept if the new" in word
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "tiny.m2c"]


def test_what_is_measured_and_removed_while_a_store_is_replaced(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also files in folders and links, which a user may have put there."""
    target, profiles = tmp_path / "tiny.m2c", tmp_path / "tiny.m2c/profiles"
    convert(model, target)
    measure(target)
    (profiles / "mine/inner").mkdir(parents=True)
    (profiles / "mine/inner/notes.txt").write_bytes(b"notes")
    (profiles / "dangling").symlink_to("/nonexistent")
    journal = (profiles / "tuning-0.journal").open("ab", buffering=0)

    def meanwhile(self: Measured, new: dict[str, Any]) -> None:
        (profiles / "recipes.json").write_bytes(b"new")
        (profiles / "neurons.json").unlink()
        (profiles / "predictor-svd.safetensors").write_bytes(b"other")

    carry = measured._carry

    def gone_at_last(path: Path, to: Path) -> None:
        if path.name == "recipes.json":
            (profiles / "tuning-1.journal").unlink()
        carry(path, to)

    (profiles / "tuning-1.journal").write_bytes(b"soon gone")
    monkeypatch.setattr(Measured, "foretold", meanwhile)
    monkeypatch.setattr(measured, "_carry", gone_at_last)
    convert(model, target, force=True, notify=lambda _: None)
    journal.write(b"went on")
    journal.close()
    assert (profiles / "mine/inner/notes.txt").read_bytes() == b"notes"
    assert (profiles / "dangling").readlink() == Path("/nonexistent")
    found = {path.name: path.read_bytes() for path in profiles.iterdir() if path.is_file()}
    assert found == {
        "recipes.json": b"new",
        "predictor-svd.safetensors": b"other",
        "tuning-0.journal": b"went on",
    }


def test_without_second_names_what_was_measured_is_copied(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*names: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    convert(model, tmp_path / "tiny.m2c")
    kept = measure(tmp_path / "tiny.m2c")
    monkeypatch.setattr(os, "link", refused)
    convert(model, tmp_path / "tiny.m2c", force=True, notify=lambda _: None)
    assert contents(tmp_path / "tiny.m2c/profiles") == kept


@pytest.mark.parametrize(
    ("options", "before"),
    [
        ({"planes": "base"}, r"replacing .* will drop what was measured of it \(neurons.json, predictor-svd"),
        ({}, r"has profiles \(neurons.json, .* dropped if not"),
    ],
)
def test_what_is_another_store_s_is_dropped_and_told_before(
    options: dict[str, Any], before: str, model: Path, tmp_path: Path
) -> None:
    target, said = tmp_path / "tiny.m2c", list[str]()
    convert(model, target)
    measure(target)
    (model / "tokenizer.json").write_text("{}")

    def tell(word: str) -> None:
        said.append(word)
        assert (target / "profiles/neurons.json").exists()

    convert(model, target, force=True, notify=tell, **options)
    assert not (target / "profiles").exists()
    assert re.search(before, said[0])
    last = "dropping what was measured of the replaced store: neurons.json, predictor-svd.safetensors"
    assert said[1:] == [last]


def test_a_name_without_the_suffix_is_taken_as_it_is(model: Path, tmp_path: Path) -> None:
    report: ConvertReport = convert(model, tmp_path / "plain name")
    assert report.path == str(tmp_path / "plain name")
    assert report.bytes == sum(len(data) for data in contents(tmp_path / "plain name").values())
    assert json.loads(json.dumps(report.to_dict()))["zero_share"] == 0.0


def test_a_hub_id_is_fetched_without_pickles(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(model)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    convert("someone/tiny-model", tmp_path / "tiny.m2c")
    assert [name for name, _ in asked] == ["someone/tiny-model"]
    assert not any("bin" in pattern or pattern == "*" for pattern in asked[0][1])
