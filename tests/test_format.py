"""The format is frozen: golden stores, a reader that knows only docs/format.md, and its example."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from m2cache_rs import _core
from m2cache_rs.convert.encoding import FORMS, GROUPS, PRESETS, STORED, choose
from m2cache_rs.models import Architecture, architecture_of

from tests.golden import example
from tests.golden.format_cases import CASES, FOLDER, architecture, encoding, weights, write, write_store
from tests.reference import format as document
from tests.reference import numbers, tiny
from tests.reference.format import Array


def levels(planes: int) -> tuple[int, ...]:
    return (4, 8, 16)[:planes]


def check_values(store: document.Store, named: dict[str, Array], form: str, group: int, planes: int) -> None:
    """Every matrix decodes to what the reference makes of the weights; every vector is itself."""
    assert {*store.parts, *store.vectors} == set(named)
    for name, vector in store.vectors.items():
        np.testing.assert_array_equal(vector, named[name], err_msg=name)
    for name in store.parts:
        coded = numbers.encode(named[name], form, group)
        for bits in levels(planes):
            np.testing.assert_array_equal(store.values(name, bits), numbers.decode(coded, bits), err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_writing_the_same_weights_gives_the_same_bytes(case: str, tmp_path: Path) -> None:
    write(case, tmp_path)
    golden = {path.name: path.read_bytes() for path in (FOLDER / case).iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == set(golden)
    for name, content in golden.items():
        assert (tmp_path / name).read_bytes() == content, name


@pytest.mark.parametrize("case", CASES)
def test_the_documented_reader_reads_them(case: str) -> None:
    form, group, _, _ = CASES[case][1]
    check_values(document.Store(FOLDER / case), weights(case), form, group, encoding(case).planes)


@pytest.mark.parametrize("case", CASES)
def test_the_core_reads_and_verifies_them(case: str) -> None:
    store = _core.Store(str(FOLDER / case))
    manifest = json.loads(store.manifest())
    for entry in (*manifest["files"], *manifest["assets"]):
        assert store.verify(entry["name"]) == []
    found = json.loads(store.layout())["files"]
    for have, want in zip(
        found, document.layouts(manifest["architecture"], manifest["encoding"]), strict=True
    ):
        begins = {name: begin for name, _, _, begin, _ in want.tensors()}
        header = have["bytes"] - want.tensors()[-1][4]
        places = [(s["name"], s["offset"], s["stride"], s["check_records"]) for s in have["sections"]]
        assert places == [(s.name, header + begins[s.name], s.stride, s.check) for s in want.sections]
        assert all(s["offset"] % document.PAGE == 0 for s in have["sections"])


@pytest.mark.parametrize("case", CASES)
def test_safetensors_reads_them(case: str) -> None:
    manifest = json.loads((FOLDER / case / "m2cache.json").read_text())
    for layout in document.layouts(manifest["architecture"], manifest["encoding"]):
        path = FOLDER / case / layout.name
        found = {name: (t["dtype"], t["shape"]) for name, t in safetensors.deserialize(path.read_bytes())}
        assert found == {name: (dtype, shape) for name, dtype, shape, _, _ in layout.tensors()}
        with safetensors.safe_open(path, "np") as opened:
            assert json.loads(opened.metadata()["m2cache"])["version"] == 1


def test_golden_stores_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 300_000


@settings(max_examples=30, deadline=None)
@given(
    config=tiny.configs(),
    form=st.sampled_from(FORMS),
    group=st.sampled_from(GROUPS),
    planes=st.sampled_from(sorted(STORED)),
    preset=st.sampled_from(PRESETS),
)
def test_the_documented_reader_reads_any_encoding(
    tmp_path_factory: pytest.TempPathFactory,
    config: dict[str, object],
    form: str,
    group: int,
    planes: str,
    preset: str,
) -> None:
    arch = architecture_of(config)[1]
    chosen = choose(arch, form, group, planes, preset)
    named, path = tiny.weights(arch, 5), tmp_path_factory.mktemp("any")
    write_store(path, arch, chosen.to_dict(), named, [])
    check_values(document.Store(path), named, form, group, chosen.planes)


def test_the_example_in_the_document_is_what_it_says() -> None:
    shown = example.DOCUMENT.read_text().split(example.BEGIN)[1].split(example.END)[0]
    assert shown == example.block()


@pytest.mark.parametrize("form", FORMS)
def test_the_example_is_what_the_core_writes(form: str, tmp_path: Path) -> None:
    arch, record = example_architecture(), example.Record(form)
    named = tiny.weights(arch, 1) | {"embed": np.array([example.weights()], np.float32)}
    write_store(tmp_path, arch, choose(arch, form, 64, "all", "split").to_dict(), named, [])
    store = document.Store(tmp_path)
    for plane, payload in record.planes().items():
        assert store.parts["embed"][plane].tobytes() == payload
    for bits in (4, 8, 16):
        assert list(store.values("embed", bits)[0]) == [record.value(i, bits) for i in range(example.WIDTH)]


def example_architecture() -> Architecture:
    """A vocabulary of one token: its embedding is the record."""
    return architecture_of(tiny.CONFIG | {"vocab_size": 1, "tie_word_embeddings": True, "eos_token_id": 0})[1]


@pytest.mark.parametrize("case", CASES)
def test_the_id_is_of_what_determines_the_output(case: str) -> None:
    manifest = json.loads((FOLDER / case / "m2cache.json").read_text())
    same = manifest | {"generator": "another", "source": {"name": "elsewhere"}, "synthetic": False}
    other = manifest | {"architecture": manifest["architecture"] | {"norm_eps": 2e-5}}
    assert document.store_id(same) == manifest["id"] != document.store_id(other)
    assert document.checksum(same) != manifest["checksum"]
    assert architecture(case).norm_eps == pytest.approx(manifest["architecture"]["norm_eps"])
