"""Low-rank predictors: factors against the full SVD, recall, files, and what a profile of a store says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model, StoreError, StoreIOError, UsageError
from m2cache_rs._core import Engine
from m2cache_rs.models import architecture_of
from m2cache_rs.models.spec import ACTIVATIONS as NAMES
from m2cache_rs.predict import file, run
from m2cache_rs.predict.activation import ACTIVATIONS
from m2cache_rs.predict.coding import as_kept
from m2cache_rs.predict.lowrank import FfnMatrices, factorise, scores, svd
from m2cache_rs.predict.rank import default_rank, outputs, predictor_bytes, predictor_share
from m2cache_rs.predict.recall import Recall
from m2cache_rs.predict.train import require
from m2cache_rs.recipe.neurons import SHARES, NeuronProfile, path_of
from m2cache_rs.recipe.predictors import Predictor
from m2cache_rs.recipe.predictors import path_of as predictor_path
from m2cache_rs.runtime.opening import Opened

from tests.reference import decoder
from tests.stores import EXAMPLE, SMALL

Array = np.ndarray[Any, Any]
TEXT = (EXAMPLE / "README.md").read_text()
RNG = np.random.default_rng(2)
ROUNDING = 2e-4
"""Of float32 products against exact ones, relative to the largest."""


def tiles(matrix: Array, step: int = 7) -> Any:
    return lambda: (matrix[at : at + step] for at in range(0, len(matrix), step))


def decaying(neurons: int, hidden: int) -> Array:
    """A matrix whose singular values fall by a tenth from one to the next."""
    left, right = (np.linalg.qr(RNG.standard_normal((n, min(neurons, hidden))))[0] for n in (neurons, hidden))
    return ((left * 0.9 ** np.arange(left.shape[1])) @ right.T).astype(np.float32)


@pytest.mark.parametrize(("neurons", "hidden"), [(90, 40), (30, 50)])
def test_factors_are_the_best_of_their_rank_over_the_inputs(neurons: int, hidden: int) -> None:
    """In mean squares of what the matrix gives: nearly as small an error as the exact weighted SVD's."""
    matrix = decaying(neurons, hidden)
    x = (RNG.standard_normal((200, hidden)) * np.linspace(3, 0.1, hidden)).astype(np.float32)
    metric = x.T.astype(np.float64) @ x / len(x) + 1e-2 * np.mean(np.square(x)) * np.eye(hidden)
    root = np.linalg.cholesky(metric)
    for rank in (1, 5, 12):
        down, up = factorise(tiles(matrix), x, rank)
        assert (down.shape, up.shape) == ((rank, hidden), (neurons, rank))
        best = np.sqrt(np.sum(np.linalg.svd(matrix @ root, compute_uv=False)[rank:] ** 2))
        assert np.linalg.norm((matrix - up @ down) @ root) == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize(("neurons", "hidden"), [(90, 40), (30, 50), (1, 3)])
def test_at_full_rank_the_product_is_the_matrix(neurons: int, hidden: int) -> None:
    matrix = RNG.standard_normal((neurons, hidden)).astype(np.float32)
    x = RNG.standard_normal((60, hidden)).astype(np.float32)
    down, up = factorise(tiles(matrix), x, min(neurons, hidden))
    np.testing.assert_allclose(up @ down, matrix, atol=ROUNDING * np.abs(matrix).max())


@pytest.mark.parametrize("activation", NAMES)
def test_scores_are_the_formula(activation: str) -> None:
    gate, up, x = (RNG.standard_normal(shape).astype(np.float32) for shape in ((30, 8), (30, 8), (40, 8)))
    bias = RNG.standard_normal(30).astype(np.float32)
    matrices = FfnMatrices(tiles(gate), tiles(up), bias, activation)
    activated = np.abs(decoder.ACTIVATIONS[activation](x @ gate.T + bias))
    gated = svd(matrices, x, 8, 1)
    exact = activated * np.abs(x @ up.T).mean(axis=0)
    np.testing.assert_allclose(scores(gated, x, activation), exact, atol=1e-3, rtol=1e-3)
    both = svd(matrices, x, 8, 2)
    assert both.up.shape == (60, 8)
    np.testing.assert_allclose(
        scores(both, x, activation), activated * np.abs(x @ up.T), atol=1e-3, rtol=1e-3
    )
    plain = svd(FfnMatrices(None, tiles(up), bias, activation), x, 8, 1)
    exact = np.abs(decoder.ACTIVATIONS[activation](x @ up.T + bias))
    np.testing.assert_allclose(scores(plain, x, activation), exact, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("activation", NAMES)
def test_activations_are_the_reference_s(activation: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 1001), [-80, 80]]).astype(np.float32)
    np.testing.assert_allclose(
        ACTIVATIONS[activation](x), decoder.ACTIVATIONS[activation](x), atol=1e-6, rtol=1e-5
    )


def test_recall_at_full_rank_is_1() -> None:
    """Without a gate, and with two outputs; one has the gate's own ranking, which misses what up decides."""
    gate, up, x = (RNG.standard_normal(shape).astype(np.float32) for shape in ((64, 16), (64, 16), (300, 16)))
    zero = np.zeros(64, np.float32)
    without = svd(FfnMatrices(None, tiles(up), zero, "silu"), x, 16, 1)
    h = np.abs(ACTIVATIONS["silu"](x @ up.T))
    assert recall_of(h, scores(without, x, "silu")) == pytest.approx([1] * 5, abs=5e-3)
    matrices = FfnMatrices(tiles(gate), tiles(up), zero, "silu")
    h = np.abs(ACTIVATIONS["silu"](x @ gate.T) * (x @ up.T))
    assert recall_of(h, scores(svd(matrices, x, 16, 2), x, "silu")) == pytest.approx([1] * 5, abs=5e-3)
    own = np.abs(ACTIVATIONS["silu"](x @ gate.T)) * np.abs(x @ up.T).mean(axis=0)
    one = recall_of(h, scores(svd(matrices, x, 16, 1), x, "silu"))
    assert one == pytest.approx(recall_of(h, own), abs=5e-3)
    assert one[1] < 0.9


def recall_of(h: Array, guess: Array) -> tuple[float, ...]:
    recall = Recall(h.shape[1])
    recall.add(np.ascontiguousarray(h, np.float32), np.ascontiguousarray(guess, np.float32))
    return recall.neurons()


def shaped(**sizes: int) -> Any:
    return architecture_of(SMALL | sizes)[1]


def test_the_default_rank_costs_what_design_allows() -> None:
    """3 to 6 % of the FFN at 4 bits for 7B, 8B and 70B; 64 is the least."""
    for hidden, ffn, rank, relu in (
        (4096, 11008, 320, 512),
        (4096, 14336, 320, 576),
        (8192, 28672, 640, 1152),
    ):
        for act, found in (("silu", rank), ("relu", relu)):
            arch = shaped(hidden_size=hidden, intermediate_size=ffn, hidden_act=act)
            assert outputs(arch) == (2 if act == "silu" else 1)
            assert default_rank(arch) == found
            assert 0.03 < predictor_share(arch, found) <= 0.06 < predictor_share(arch, found + 64)
    assert default_rank(shaped()) == 64
    assert default_rank(shaped(intermediate_size=40)) == 40
    # Records of 64 groups, and of 172 of each head, of 64 codes and an f16; 11008 times bias and weight.
    seven = shaped(hidden_size=4096, intermediate_size=11008)
    assert predictor_bytes(seven, 320) == 320 * (64 + 2 * 172) * 34 + 11008 * 8


def test_factors_keep_their_product_in_f16() -> None:
    down, up = RNG.standard_normal((3, 10)) * 1e-7, RNG.standard_normal((20, 3)) * 1e6
    down[1], up[:, 2] = 0, 0
    given = file.Factors(*(one.astype(np.float32) for one in (down, up)), *np.ones((2, 20), np.float32))
    found = file.balanced(given)
    assert np.isfinite(found.up.astype(np.float16)).all()
    product = found.up.astype(np.float16).astype(np.float32) @ found.down.astype(np.float16).astype(
        np.float32
    )
    np.testing.assert_allclose(product, given.up @ given.down, atol=1e-3)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory, tale: Path) -> Path:
    """The demo model's store with a profile of its own."""
    store = tmp_path_factory.mktemp("profiled") / "tale.m2c"
    store.mkdir()
    for one in tale.iterdir():
        if one.is_file():
            (store / one.name).hardlink_to(one)
    profile(store)
    return store


def profile(store: Path, text: str = TEXT, **wish: Any) -> dict[str, Any]:
    opened = Opened(store)
    told: list[tuple[str, int, int]] = []
    with Model.open(opened, kv="f32") as model:
        report = run.make(
            opened, model, text, run.Wish(**{"tokens": 200, **wish}), lambda *one: told.append(one)
        )
    assert told[-1][1] == told[-1][2]
    return report


def test_a_profile_and_predictors_are_found_by_who_needs_them(profiled: Path) -> None:
    opened = Opened(profiled)
    identity, arch = opened.manifest["id"], opened.architecture
    found = NeuronProfile.load(profiled, identity, arch.layers, arch.ffn)
    assert NeuronProfile.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert (found.store, found.tokens, found.bits, len(found.layers)) == (identity, 200, 16, arch.layers)
    for share in SHARES:
        for selector in ("oracle", "plane"):
            assert found.threshold(3, selector, share).share == pytest.approx(share, abs=0.01)
    with pytest.raises(UsageError, match="no threshold of 'plane' at a share"):
        found.threshold(0, "plane", 0.6)
    predictor = Predictor(profiled, "svd", identity, arch)
    assert (predictor.kind, predictor.bits, set(predictor.ranks)) == ("svd", 4, {64})
    assert (set(predictor.outputs), predictor.bytes()) == ({2}, 6 * predictor_bytes(arch, 64))
    assert sorted(one.name for one in (profiled / "profiles").iterdir()) == [
        "neurons.json",
        "predictor-svd.safetensors",
    ]


def test_the_file_s_recall_is_that_of_its_factors(profiled: Path) -> None:
    """On the last fifth of the text, which nothing was learned from."""
    opened = Opened(profiled)
    with Model.open(opened, kv="f32") as model:
        parts = run.texts(model, TEXT, 200)
        with run.Spool(profiled, opened.architecture.layers, 200, opened.architecture.hidden) as spool:
            run.Collector(model, 16, spool).run(parts, lambda done: None)
            samples = [run.Sample(model, opened.store, spool, 200, i, 16) for i in range(6)]
            predictor = Predictor(profiled, "svd", opened.manifest["id"], opened.architecture)
            recalls = []
            for sample, factors in zip(samples, predictor.layers(), strict=True):
                recall = Recall(opened.architecture.ffn)
                rows = 0
                for x, h in sample.held_out():
                    recall.add(h, scores(as_kept(factors), sample.normed(x), "silu"))
                    rows += len(x)
                assert (rows, sample.learned) == (40, 160)
                recalls.append(recall.neurons())
    content = predictor_path(profiled, "svd").read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    kept = [float(one) for one in json.loads(metadata["recall"]).values()]
    np.testing.assert_allclose(kept, np.mean(recalls, axis=0), atol=3e-3)


def test_the_core_ranks_by_the_same_scores(profiled: Path) -> None:
    """Factors coded as the core codes them: what is left is its activations of 8 bits and factors of 15."""
    opened = Opened(profiled)
    arch = opened.architecture
    cuts = {"sparse": {"selector": "lowrank", "cuts": [{"top": [0, 0, 100]}]}}
    levels = dict.fromkeys(("attn", "head", "embed", "prompt"), 16)
    engine = Engine(opened.store, json.dumps(levels | {"ffn": cuts}))
    x = RNG.standard_normal((32, arch.hidden)).astype(np.float32)
    for layer, factors in enumerate(Predictor(profiled, "svd", opened.manifest["id"], arch).layers()):
        engine.set_predictor(layer, factors.down, factors.up, factors.bias, factors.weight, 4)
        normed = x / np.sqrt(np.mean(np.square(x), axis=1, keepdims=True) + arch.norm_eps)
        found = engine.scores(layer, x)
        expected = scores(as_kept(factors), normed * engine.norm(layer, "ffn"), "silu")
        assert np.abs(found - expected).max() < 0.02 * expected.max()
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9995


def test_wishes_that_cannot_be(profiled: Path) -> None:
    for rank in (0, -1, 257):
        with pytest.raises(UsageError, match=f"rank is {rank}; the matrices of this model have 1 to 256"):
            profile(profiled, rank=rank)
    with pytest.raises(UsageError, match="fewer than two tokens"):
        profile(profiled, text="")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value | {"store": "0" * 32}, "made for another store"),
        (lambda value: value | {"version": 2}, "not of version 1"),
        (lambda value: value | {"shares": [0.5]}, "is of other shares"),
        (lambda value: value | {"layers": value["layers"][:-1]}, "other layers or neurons"),
        (lambda value: value | {"layers": [5] * 6}, "wrong kind"),
        (lambda value: value | {"tokens": "many"}, "many"),
        (lambda value: {key: value[key] for key in value if key != "text"}, "lacks 'text'"),
        (lambda value: _with(value, "overlap", [2.0] * 5), "has a share of 2.0"),
        (lambda value: _with(value, "overlap", [0.5] * 4), "has 4 values where there are 5 shares"),
        (lambda value: _with(value, "frequency", [[1, 2]] * 5), "other layers or neurons"),
        (lambda value: _with(value, "nonzero", float("nan")), "has a number of nan"),
        (lambda value: _with_cut(value, "score", 1e39), r"has a number of 1e\+39"),
        (lambda value: _with_cut(value, "most", 0), "has a count of 0"),
        (lambda value: _with_cut(value, "most", "7"), "has a count of '7'"),
        (lambda value: _with_cut(value, "most", 769), "other layers or neurons"),
    ],
)
def test_profiles_that_are_none_are_named(profiled: Path, tmp_path: Path, change: Any, message: str) -> None:
    value = json.loads(path_of(profiled).read_text())
    path_of(tmp_path).parent.mkdir()
    path_of(tmp_path).write_text(json.dumps(change(value)))
    with pytest.raises(StoreError, match=rf"{path_of(tmp_path)} .*{message}.*; `m2cache profile"):
        NeuronProfile.load(tmp_path, value["store"], 6, 768)


def _with_cut(value: dict[str, Any], name: str, other: Any) -> dict[str, Any]:
    cut = {"score": 1.0, "share": 0.5, "most": 400, name: other}
    return _with(value, "thresholds", {"oracle": [cut] * 5, "plane": [cut] * 5})


def _with(value: dict[str, Any], name: str, other: Any) -> dict[str, Any]:
    return value | {"layers": [{**layer, name: other} for layer in value["layers"]]}


def test_torch_s_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    for said, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        monkeypatch.setattr(os, "environ", said)
        require()
        assert os.environ["OMP_WAIT_POLICY"] == expected


def test_no_profile_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path} has no profile of its neurons; `m2cache profile"):
        NeuronProfile.load(tmp_path, "id", 1, 1)
    path_of(tmp_path).parent.mkdir()
    path_of(tmp_path).write_text("{")
    with pytest.raises(StoreError, match=f"{path_of(tmp_path)} is no JSON"):
        NeuronProfile.load(tmp_path, "id", 1, 1)


def test_a_folder_that_cannot_be_made(
    profiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Said before the text runs."""
    store = tmp_path / "store.m2c"
    store.mkdir()
    for one in profiled.iterdir():
        if one.is_file():
            (store / one.name).hardlink_to(one)
    (store / "profiles").write_text("a file")
    with pytest.raises(StoreIOError, match=f"{store}/profiles cannot be written to"):
        profile(store)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_stops_it_leaves_the_files_as_they_were(
    profiled: Path, monkeypatch: pytest.MonkeyPatch, stop: Any
) -> None:
    folder = profiled / "profiles"
    before = {one.name: one.read_bytes() for one in folder.iterdir()}

    def stopped(*_: object) -> None:
        raise stop

    monkeypatch.setattr(file, "balanced", stopped)
    with pytest.raises((KeyboardInterrupt, StoreIOError)):
        profile(profiled, rank=5)
    assert {one.name for one in folder.iterdir()} == before.keys()
    name = "predictor-svd.safetensors"
    assert (folder / name).read_bytes() == before[name]
