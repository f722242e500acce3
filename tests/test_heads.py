"""Decode tokens that have some query heads: the bits of the reference, under any cache, batch and thread."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs import Model, StoreError, UsageError
from m2cache_rs.eval.run import evaluate
from m2cache_rs.models import Architecture, architecture_of
from m2cache_rs.recipe.heads import HeadPredictor, path_of
from m2cache_rs.recipe.recipe import Dense, Recipe
from m2cache_rs.recipe.work import record_bytes
from m2cache_rs.runtime.decoder import Batch, Kind
from m2cache_rs.runtime.opening import Opened
from safetensors.numpy import save_file

from tests.engines import Json, Sequence, dense, needed, noise, opened, recipe
from tests.reference import tiny
from tests.reference.decoder import forward
from tests.reference.heads import Heads
from tests.reference.sums import Ordered
from tests.reference.weights import Quantised, uniform
from tests.stores import SMALL, Cli
from tests.test_parity import ROUGH, same_bits, stored
from tests.test_sparse_parity import run

Array = np.ndarray[Any, Any]
Lines = dict[int, tuple[Array, Array]]
HEADS, LAYERS = SMALL["num_attention_heads"], SMALL["num_hidden_layers"]
CONFIG = tiny.CONFIG | {"num_hidden_layers": 2, "max_position_embeddings": 64}


def copied(store: Path, to: Path) -> Path:
    """The same files under another name: what a test writes into profiles/ is its own."""
    shutil.copytree(store, to, copy_function=os.link)
    return to


@pytest.fixture(name="small", scope="session")
def own_small(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(small, tmp_path_factory.mktemp("heads") / "small.m2c")


@pytest.fixture(name="tale", scope="session")
def own_tale(tale: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tale, tmp_path_factory.mktemp("heads") / "tale.m2c")


def lines(heads: int, hidden: int, layers: int, seed: int = 1) -> Lines:
    """Random guesses at the worth of heads."""
    rng = np.random.default_rng(seed)
    parts = ((rng.standard_normal((heads, hidden)), rng.standard_normal(heads)) for _ in range(layers))
    return {i: (weight.astype(np.float32), bias.astype(np.float32)) for i, (weight, bias) in enumerate(parts)}


def of(arch: Architecture, seed: int = 1) -> Lines:
    return lines(arch.heads, arch.hidden, arch.layers, seed)


def give(store: Path, found: Lines, **metadata: str) -> Path:
    """Puts them where a store's lie."""
    path = path_of(store)
    path.parent.mkdir(exist_ok=True)
    tensors = {
        f"layer.{layer}.{part}": values
        for layer, both in found.items()
        for part, values in zip(("weight", "bias"), both, strict=True)
    }
    save_file(tensors, path, {"store": Opened(store).manifest["id"], **metadata})
    return path


def some(*top: int, bits: int = 8) -> Json:
    counts = list(top) if len(top) > 1 else top[0]
    return recipe({"dense": bits}, bits, bits) | {"query_heads": {"top": counts}}


def engine(store: Path, *top: int, seed: int = 1, bits: int = 8, **options: Any) -> Any:
    """An engine whose tokens have so many heads."""
    found = opened(store, some(*top, bits=bits), **options)
    for layer, (weight, bias) in lines(HEADS, SMALL["hidden_size"], LAYERS, seed).items():
        found.set_head_predictor(layer, weight, bias)
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    config=tiny.configs(), seed=st.integers(0, 999), act=st.sampled_from(["auto", "f32"]),
    bits=st.sampled_from([4, 8, 16]), share=st.floats(0.05, 1), kv=st.sampled_from(["f16", "f32"]),
    step=st.sampled_from([1, 5, 32]),
)  # fmt: skip
def test_some_heads_are_the_reference(
    tmp_path_factory: pytest.TempPathFactory, config: Json, seed: int, act: str, bits: int, share: float,
    kv: str, step: int,
) -> None:  # fmt: skip
    if architecture_of(config)[1].activation in ROUGH:
        config = config | {"hidden_act": "silu"}
    arch = architecture_of(config)[1]
    named, ids = tiny.weights(arch, seed), tiny.tokens(arch, 9, seed)
    wanted = Recipe(bits, bits, bits, bits, Dense(bits), (share,))
    top = json.loads(wanted.core(arch))["query_heads"]["top"]
    with stored(tmp_path_factory.mktemp("heads"), config, named, equalize=False) as path:
        give(path, of(arch, seed))
        twin = Quantised(named, uniform(bits), act == "auto", sums=Ordered())
        chosen = Heads(top, of(arch, seed), act == "auto")
        found = run(path, ids, wanted, step, act=act, kv=kv)
    same_bits(found, forward(arch, twin, ids, kv=kv, heads=chosen))


def test_long_texts_in_grouped_heads_are_the_reference(tmp_path: Path) -> None:
    """Several spans of positions; groups of three of which one, two, all or none are read."""
    config = CONFIG | {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 200}
    arch = architecture_of(config)[1]
    named, ids = tiny.weights(arch, 4), tiny.tokens(arch, 150, 4)
    wanted = Recipe(8, 8, 8, 8, Dense(8), (0.5, 0.3))
    with stored(tmp_path, config, named, equalize=False) as path:
        give(path, of(arch))
        found = run(path, ids, wanted, 32)
    twin = Quantised(named, uniform(8), sums=Ordered())
    same_bits(found, forward(arch, twin, ids, heads=Heads([3, 2], of(arch))))


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("act", ["auto", "f32"])
def test_all_heads_are_those_of_no_choice(small: Path, bits: int, act: str) -> None:
    x = noise(7, 1)
    plain = opened(small, recipe({"dense": bits}, bits, bits), act)
    chosen = engine(small, HEADS, bits=bits, act=act)
    same_bits(Sequence(chosen).feed(x, 0, False), Sequence(plain).feed(x, 0, False))


def test_prompts_have_all_heads(small: Path) -> None:
    x = noise(40, 2)
    some_heads, all_heads = Sequence(engine(small, 1)), Sequence(opened(small, dense(8)))
    same_bits(some_heads.feed(x, 0, True), all_heads.feed(x, 0, True))
    first = x[:1]
    assert not np.array_equal(some_heads.feed(first, 40, False), all_heads.feed(first, 40, False))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    top=st.integers(1, HEADS), seed=st.integers(0, 99), step=st.sampled_from([1, 3, 32]),
    threads=st.integers(1, 3), share=st.sampled_from([0.0, 0.5, 1.0]), io=st.sampled_from(["psync", "auto"]),
    lookahead=st.sampled_from([None, 0]), verify=st.sampled_from(["first", "always", "never"]),
)  # fmt: skip
def test_batches_threads_and_caches_change_no_bit(
    small: Path, top: int, seed: int, step: int, threads: int, share: float, io: str, lookahead: int | None,
    verify: str,
) -> None:  # fmt: skip
    x = noise(32, seed)
    need = needed(small, some(top))
    room = int(need["least"] + share * (need["all"] - need["least"]))
    options = {"threads": threads, "cache": room, "io": io, "lookahead": lookahead, "verify": verify}
    wanted = Sequence(engine(small, top, seed=seed)).feed(x, 0, False)
    other = Sequence(engine(small, top, seed=seed, **options))
    parts = [other.feed(x[at : at + step], at, False) for at in range(0, len(x), step)]
    same_bits(np.concatenate(parts), wanted)


@pytest.mark.parametrize("top", range(1, HEADS + 1))
def test_partial_sums_add_up_to_the_whole(small: Path, top: int) -> None:
    """Also where nobody has a head of a group."""
    core, x, at = engine(small, top, 1), noise(3, 5), np.arange(3, dtype=np.uint32)
    whole, parts = (Sequence(core) for _ in range(2))
    ids = np.full(3, whole.id, np.uint32)
    expected = core.attention(0, x, whole.kv, ids, at)
    total = np.broadcast_to(Opened(small).store.vector(0, "bias.o"), x.shape).copy()
    for group in range(SMALL["num_key_value_heads"]):
        part = core.attention(0, x, parts.kv, ids, at, (group, group + 1))
        assert part.shape == (1, *x.shape)
        total += part[0]
    same_bits(total, expected)


def test_what_is_no_number_reaches_the_output(small: Path) -> None:
    x = noise(2, 3)
    x[0, 5] = np.nan
    found = Sequence(engine(small, 2)).feed(x, 0, False)
    assert np.isnan(found[0]).all()


def test_bytes_are_those_of_the_heads(small: Path) -> None:
    core, x = engine(small, 2, 4), noise(3, 1)
    Sequence(core).feed(x, 0, False)
    Sequence(core).feed(x, 0, True)
    found = json.loads(core.stats())["attention"]
    coding = Opened(small).manifest["encoding"]["coding"]
    record, guess = record_bytes(coding, 72, 8), record_bytes({"form": "symmetric", "group": 64}, 72, 8)
    choosing = 3 * LAYERS * (HEADS * guess + 4 * HEADS)
    both = 3 * (2 * 6 + LAYERS * 2 * 2) * SMALL["head_dim"] * record
    assert found == {
        "tokens": 3, "heads": 3 * 6, "selector_bytes": choosing, "touched_bytes": both + choosing
    }  # fmt: skip
    less, all_ = needed(small, some(2, 4))["parts"]["attn"], needed(small, dense(8))["parts"]["attn"]
    kept = SMALL["num_key_value_heads"] * LAYERS
    assert less * (LAYERS * HEADS + kept) == all_ * (6 + kept)


def test_unneeded_records_are_not_read(small: Path) -> None:
    """Without a cache: what lies under checksums of heads that nobody has stays on the disk."""
    x = noise(1, 1)

    def read(top: int) -> int:
        core = engine(small, top, cache=needed(small, some(top))["least"], lookahead=0)
        Sequence(core).feed(x, 0, False)
        return int(json.loads(core.stats())["read_bytes"])

    assert read(1) < read(HEADS)


def test_errors_name_the_way_out(small: Path, tmp_path: Path) -> None:
    x, at = noise(33, 1), np.arange(33, dtype=np.uint32)
    core = opened(small, some(2))
    sequence = Sequence(core)
    ids = np.full(33, sequence.id, np.uint32)
    with pytest.raises(UsageError, match=r"those of layer 0: `m2cache profile .* --query-heads`"):
        core.attention(0, x[:1], sequence.kv, ids[:1], at[:1])
    with pytest.raises(UsageError, match="33 decode tokens"):
        core.attention(0, x, sequence.kv, ids, at)
    with pytest.raises(UsageError, match="weights has 72 numbers, not 432"):
        core.set_head_predictor(0, np.zeros((1, 72), np.float32), np.zeros(6, np.float32))
    with pytest.raises(UsageError, match="layer 2 of a model with 2"):
        core.set_head_predictor(2, np.zeros((6, 72), np.float32), np.zeros(6, np.float32))
    with pytest.raises(UsageError, match=r"recipe.query_heads.top\[0\] is 7; a layer of this model has 6"):
        opened(small, some(7))
    path_of(small).unlink(missing_ok=True)
    with pytest.raises(UsageError, match=rf"m2cache profile {small} --text FILE --query-heads"):
        Model.open(small, query_heads=0.5)
    for value in ("0", 0, 1.5, "x"):
        with pytest.raises(UsageError, match="query_heads is"):
            Model.open(small, query_heads=value)
    with pytest.raises(UsageError, match="recipe says all that is computed: drop it, or query_heads"):
        Model.open(small, recipe=Recipe.dense(8), query_heads=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"store": "other"}, "made for another store"),
        ({"layer.1.weight": np.zeros((6, 3), np.float32)}, "lacks heads of layer 1"),
        ({"layer.0.bias": np.zeros(3, np.float32)}, "lacks heads of layer 0"),
        ({"layer.0.bias": np.zeros(6, np.float64)}, "lacks heads of layer 0"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arch = architecture_of(SMALL)[1]
    metadata = {"store": str(changes.pop("store", "id"))}
    path = path_of(tmp_path)
    path.parent.mkdir()
    found = {
        f"layer.{i}.{part}": one
        for i, both in of(arch).items()
        for part, one in zip(("weight", "bias"), both, strict=True)
    }
    save_file(found | changes, path, metadata)
    with pytest.raises(StoreError, match=f"{path} .*{message}.*m2cache profile .* --query-heads"):
        HeadPredictor(tmp_path, "id", arch)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    arch, path = architecture_of(SMALL)[1], path_of(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"none")
    with pytest.raises(StoreError, match=f"{path} is broken: .*m2cache profile"):
        HeadPredictor(tmp_path, "id", arch)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match=f"{path} is no regular file; remove it"):
        HeadPredictor(tmp_path, "id", arch)


def test_recipes_of_heads_survive_their_json() -> None:
    arch = architecture_of(SMALL)[1]
    for active in (0.5, [0.5, 1]):
        given = {**Recipe.dense(8).to_dict(), "query_heads": {"active": active}}
        found = Recipe.from_dict(given)
        assert found.to_dict() == given
        assert found.of_prompt == Recipe.dense(8) != found
        assert json.loads(found.core(arch))["query_heads"] == {"top": [3] if active == 0.5 else [3, 6]}
    for wrong in ({"active": []}, {"active": 0}, {"top": 3}, 0.5):
        with pytest.raises(UsageError, match="query_heads"):
            Recipe.from_dict({**Recipe.dense(8).to_dict(), "query_heads": wrong})
    with pytest.raises(UsageError, match="query_heads for 3 layers, the model has 2"):
        Recipe(8, 8, 8, 8, Dense(8), (0.5, 0.5, 0.5)).core(arch)


def test_a_profile_of_heads_is_learned_and_used(tale: Path, cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little dog. It liked to play with a ball in the park. " * 9)
    options = ("--no-predictors", "--tokens", "160", "--force", "--json")
    made = json.loads(cli("profile", tale, "--text", text, "--query-heads", *options).stdout)
    recalls = made["query_heads"]["recall"]
    assert all(0.7 < one <= 1 for one in recalls)
    with Model.open(tale, precision=8) as full, Model.open(tale, precision=8, query_heads=0.5) as half:
        rows = [evaluate(model, text.read_text(), 100, full) for model in (full, half)]
        # The profile left no positions behind that it appended.
        assert half.stats()["attention"]["tokens"] == rows[1]["tokens"] + 1
    assert rows[1]["attention_bytes_per_token"] < rows[0]["attention_bytes_per_token"]
    assert rows[1]["needed_bytes_per_token"] < rows[0]["needed_bytes_per_token"]
    assert 0 < rows[1]["mean_kl"] < 1
    shown = cli("generate", tale, "--prompt", "Once", "--query-heads", "0.5", "--max-new-tokens", "3")
    assert "50 % of query heads (2 of 4)" in shown.stderr


def test_batches_of_both_kinds_through_branches(small: Path) -> None:
    """Where an observer watches, branches are asked for one by one: the same bits."""
    give(small, lines(HEADS, SMALL["hidden_size"], LAYERS))
    ids = np.arange(20, dtype=np.uint32)
    kinds = np.array([Kind.PROMPT] * 12 + [Kind.DECODE] * 8, np.uint8)
    with Model.open(small, precision=8, query_heads=0.5) as model:
        found = []
        for observer in (None, lambda layer, which, x: None):
            with model.sequence(20) as sequence:
                batch = Batch(ids, np.full(20, sequence, np.uint32), kinds, tokens=ids)
                found.append(model.forward(batch, observer=observer))
    same_bits(*found)


def test_mixed_values_are_what_o_is_multiplied_with(small: Path) -> None:
    core, x, at = opened(small, recipe({"dense": 16}, 16, 16)), noise(4, 2), np.arange(4, dtype=np.uint32)
    one, other = Sequence(core), Sequence(core)
    ids = np.full(4, one.id, np.uint32)
    mixed = core.mixed(1, x, one.kv, ids, at)
    store = Opened(small).store
    records = store.rows(1, "o", 0, mixed.shape[1], 16)
    found = core.attention(1, x, other.kv, ids, at)
    np.testing.assert_allclose(mixed @ records + store.vector(1, "bias.o"), found, rtol=1e-4, atol=1e-5)
