"""Sparse recipes in the Rust engine against the reference, to the bit: every selector, gated and not, ReLU
and SiLU, shares and thresholds, levels of all bands; tokens together and alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs import Model, UsageError
from m2cache_rs.convert import convert, huggingface
from m2cache_rs.models import Architecture, Family, architecture_of
from m2cache_rs.recipe.cut import Above, Cut, Shares
from m2cache_rs.recipe.predictors import path_of
from m2cache_rs.recipe.recipe import Certified, Dense, Recipe, Sparse
from m2cache_rs.runtime.decoder import Batch, Kind
from m2cache_rs.runtime.opening import Opened
from safetensors.numpy import save_file

from tests.reference import checkpoint, sparse, store, text, tiny
from tests.reference.decoder import forward
from tests.reference.sums import Ordered
from tests.reference.weights import Quantised
from tests.test_parity import ROUGH, same_bits, stored

Array = np.ndarray[Any, Any]
CONFIG = tiny.CONFIG | {"intermediate_size": 300, "num_hidden_layers": 2, "max_position_embeddings": 64}
SELECTORS = ("plane", "oracle", "lowrank", "cascade")
CUTS: tuple[Cut, ...] = (
    Shares(0.5, (0.25, 0.25, 0.5)),
    Shares(0.1, (0, 1, 0)),
    Shares(1.0, (0.3, 0, 0.7)),
    Above((0.9, 0.5, 0.2), 0.4),
    Above((None, 0.6, None), 1.0),
)


def recipe(selector: str, *cuts: Cut, prompt: int = 8, attn: int = 8) -> Recipe:
    kept = max(cut.active if isinstance(cut, Shares) else cut.most for cut in cuts)
    candidates = (max(0.6, kept),) if selector == "cascade" else ()
    return Recipe(attn, 8, 16, prompt, Sparse(selector, cuts, candidates))


def factors(arch: Architecture, seed: int, bits: int) -> dict[int, sparse.Factors]:
    """Random low-rank factors, of a rank of its own in every layer; every other has a head for up, too."""
    rng, found = np.random.default_rng(seed), {}
    for layer in range(arch.layers):
        rank, outputs = 5 + 67 * (layer % 2), 1 + layer % 2 * arch.gated
        shapes = (rank, arch.hidden), (outputs * arch.ffn, rank), (arch.ffn,), (arch.ffn,)
        down, up, bias, weight = (rng.standard_normal(shape).astype(np.float32) / 4 for shape in shapes)
        found[layer] = sparse.Factors(down, up, bias, np.abs(weight), bits)
    return found


def give(path: Path, given: dict[int, sparse.Factors]) -> None:
    """Puts them where a store's predictors lie."""
    file = path_of(path, "random")
    file.parent.mkdir(exist_ok=True)
    tensors = {
        f"layer.{layer}.{part}": getattr(one, part)
        for layer, one in given.items()
        for part in ("down", "up", "bias", "weight")
    }
    metadata = {"store": Opened(path).manifest["id"], "kind": "random", "bits": str(given[0].bits)}
    save_file(tensors, file, metadata)


def expected(
    arch: Architecture,
    twin: Quantised,
    ids: list[int],
    wanted: Recipe,
    given: dict[int, sparse.Factors],
    kv: str = "f32",
) -> Array:
    core = json.loads(wanted.core(arch))["ffn"]["sparse"]
    chosen = sparse.Recipe(core["selector"], core["cuts"], given, twin.int8)
    return forward(arch, twin, ids, kv=kv, chosen=chosen)


def run(path: Path, ids: list[int], wanted: Recipe, step: int = 99, **options: Any) -> Array:
    """Logits of one sequence, `step` decode tokens a call."""
    options = {"kv": "f32", **options}
    with Model.open(path, recipe=wanted, **options) as model, model.sequence(len(ids)) as sequence:
        tokens = np.array(ids, np.uint32)
        parts = range(0, len(ids), step)
        rows = [model.forward(Batch.run(tokens[at : at + step], sequence, at, Kind.DECODE)) for at in parts]
        return np.concatenate(rows)


def levels(wanted: Recipe) -> dict[str, int]:
    """Of the twin; the FFN's are the recipe's own."""
    return {"attn": wanted.attn, "head": wanted.head, "embed": wanted.embed, "ffn": wanted.prompt}


def without_gate(config: Any, file: str = "config.json") -> tuple[Family, Architecture]:
    family, arch = architecture_of(config, file)
    return family, replace(arch, gated=False, biases=tuple(name for name in arch.biases if name != "gate"))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize("selector", SELECTORS)
def test_every_selector_is_the_reference(
    selector: str, activation: str, gated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = architecture_of if gated else without_gate
    for module in (huggingface, checkpoint):
        monkeypatch.setattr(module, "architecture_of", of)
    config = CONFIG | {"hidden_act": activation, "mlp_bias": True}
    arch = of(config)[1]
    named, ids = tiny.weights(arch, 11), tiny.tokens(arch, 40, 11)
    given = factors(arch, 1, 8)
    with stored(tmp_path, config, named, equalize=False) as path:
        give(path, given)
        for cut in CUTS:
            wanted = recipe(selector, cut)
            for act in ("auto", "f32"):
                twin = Quantised(named, levels(wanted), act == "auto", sums=Ordered())
                same_bits(run(path, ids, wanted, act=act), expected(arch, twin, ids, wanted, given))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    config=tiny.configs(),
    seed=st.integers(0, 9999),
    form=st.sampled_from(["symmetric", "affine"]),
    group=st.sampled_from([32, 64]),
    sections=st.sampled_from(["split", "bundled", "gated"]),
    act=st.sampled_from(["auto", "f32"]),
    selector=st.sampled_from(SELECTORS),
    cuts=st.lists(
        st.one_of(
            st.builds(
                Shares,
                st.floats(0.01, 1),
                st.sampled_from([(1, 0, 0), (0.5, 0, 0.5), (0, 0.1, 0.9), (0.3, 0.3, 0.4)]),
            ),
            st.builds(
                Above, st.sampled_from([(2, 1, 0.5), (None, None, 0), (0.3, None, 0.1)]), st.floats(0.01, 1)
            ),
        ),
        min_size=3,
        max_size=3,
    ),
    bits=st.sampled_from([4, 8]),
)
def test_random_models_and_recipes_are_the_reference(
    tmp_path_factory: pytest.TempPathFactory,
    config: dict[str, Any],
    seed: int,
    form: str,
    group: int,
    sections: str,
    act: str,
    selector: str,
    cuts: list[Cut],
    bits: int,
) -> None:
    if architecture_of(config)[1].activation in ROUGH:
        config = config | {"hidden_act": "silu"}
    arch = architecture_of(config)[1]
    named, ids = tiny.weights(arch, seed), tiny.tokens(arch, 12, seed)
    wanted, given = recipe(selector, *cuts[: arch.layers]), factors(arch, seed, bits)
    twin = Quantised(named, levels(wanted), act == "auto", form, group, Ordered())
    folder = tmp_path_factory.mktemp("random")
    with stored(folder, config, named, form=form, group=group, sections=sections, equalize=False) as path:
        give(path, given)
        same_bits(run(path, ids, wanted, act=act), expected(arch, twin, ids, wanted, given))


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_token_s_bits_are_its_own(selector: str, tmp_path: Path) -> None:
    """Alone, with others, and whatever the cache holds and the threads are."""
    arch = architecture_of(CONFIG)[1]
    named, ids = tiny.weights(arch, 4), tiny.tokens(arch, 40, 4)
    wanted = recipe(selector, CUTS[0], CUTS[3])
    with stored(tmp_path, CONFIG, named, equalize=False) as path:
        give(path, factors(arch, 2, 4))
        least = Opened(path).weights(wanted).least
        whole = run(path, ids, wanted)
        for options in ({"step": 1}, {"step": 7, "cache": least}, {"cache": least, "threads": 1}):
            same_bits(run(path, ids, wanted, **options), whole)


@pytest.mark.parametrize("name", ["tale-silu", "tale-relu"])
def test_tales_are_the_reference(name: str, shared: Path, tmp_path: Path) -> None:
    """Trained models through the default conversion, equalised; the twin reads the store."""
    source, path = shared / "data/models" / name, tmp_path / "tale.m2c"
    convert(source, path)
    arch = checkpoint.load(source)[1]
    (ids,) = text.windows(shared, source / "tokenizer.json", 60, ("world192",))
    tokens, given = [int(one) for one in ids], factors(arch, 3, 8)
    give(path, given)
    for selector in SELECTORS:
        wanted = recipe(selector, Shares(0.35, (0.25, 0.25, 0.5)))
        twin = Quantised(store.contents(path), levels(wanted), sums=Ordered())
        same_bits(run(path, tokens, wanted), expected(arch, twin, tokens, wanted, given))


@pytest.mark.parametrize("prompt", [4, 8, 16])
def test_prompts_are_dense_at_their_level(prompt: int, tmp_path: Path) -> None:
    arch = architecture_of(CONFIG)[1]
    named, ids = tiny.weights(arch, 4), tiny.tokens(arch, 40, 4)
    wanted = recipe("plane", CUTS[0], prompt=prompt)
    dense = forward(arch, Quantised(named, levels(wanted), sums=Ordered()), ids)
    with stored(tmp_path, CONFIG, named, equalize=False) as path:
        with Model.open(path, recipe=wanted, kv="f32") as model:
            same_bits(model.logits(ids, "prompt"), dense)
            assert (model.logits(ids, "decode") != dense).any()
            tokens = model.stats()["tokens"]
        assert (tokens["prompt"], tokens["decode"]) == (40, 40)
        for bits in (4, 8, 16):
            alike = Recipe(8, 8, 16, bits, Dense(bits))
            with Model.open(path, recipe=alike, kv="f32") as model:
                same_bits(model.logits(ids, "prompt"), model.logits(ids, "decode"))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("activation", ["relu", "relu2", "relu6"])
@pytest.mark.parametrize("gated", [True, False])
def test_certified_has_the_bits_of_dense(
    gated: bool, activation: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = architecture_of if gated else without_gate
    for module in (huggingface, checkpoint):
        monkeypatch.setattr(module, "architecture_of", of)
    config = CONFIG | {"hidden_act": activation}
    arch = of(config)[1]
    named, ids = tiny.weights(arch, 4), tiny.tokens(arch, 40, 4)
    sections = "gated" if gated else "bundled"
    with stored(tmp_path, config, named, equalize=False, sections=sections) as path:
        for act in ("auto", "f32"):
            both = (Recipe(8, 8, 16, bits, ffn) for ffn in (Certified(bits), Dense(bits)))
            same_bits(*(run(path, ids, one, act=act) for one in both))
        with pytest.raises(UsageError, match=r"certified is 4.*take 8 or 16, or dense"):
            run(path, ids, Recipe(8, 8, 16, 4, Certified(4)))


def test_certified_computes_less_and_says_so(shared: Path, tmp_path: Path) -> None:
    """On a model trained with ReLU, in the sections that a scan of gates wants."""
    source, path = shared / "data/models/tale-relu", tmp_path / "tale.m2c"
    convert(source, path, sections="gated")
    (ids,) = text.windows(shared, source / "tokenizer.json", 60, ("world192",))
    with Model.open(path, select="certified") as model:
        rows = model.logits(ids)
        cost = model.stats()["recipe"]["cost"]
    with Model.open(path) as dense:
        same_bits(rows, dense.logits(ids))
        whole = dense.stats()["recipe"]["cost"]
    assert whole["active"] == [1, 0, 0]
    assert 0 < cost["active"][0] < 0.6
    assert cost["active"][1:] == [0, 0]
    assert 0 < cost["selector_bytes_per_token"] < cost["bytes_per_token"] < 0.75 * whole["bytes_per_token"]


def test_certified_wants_a_relu(tmp_path: Path) -> None:
    arch = architecture_of(CONFIG)[1]
    with (
        stored(tmp_path, CONFIG, tiny.weights(arch, 4), equalize=False) as path,
        pytest.raises(UsageError, match=r"certified.*silu"),
    ):
        Model.open(path, select="certified")
