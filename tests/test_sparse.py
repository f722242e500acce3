"""Decode tokens that use some of a layer's neurons, at levels of their own: the bits of the reference."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs._core import Engine
from m2cache_rs.convert import convert
from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture, architecture_of
from m2cache_rs.runtime.decoder import Floats
from m2cache_rs.runtime.opening import Opened

from tests.engines import FFN, Json, Sequence, dense, factors, needed, noise, opened, predicting, sparse
from tests.reference import checkpoint, decoder, tiny
from tests.reference import sparse as reference
from tests.reference import store as stored
from tests.reference.sums import Ordered
from tests.reference.weights import Quantised, uniform
from tests.stores import EXAMPLE, SMALL

CHUNKS = 2
SELECTORS: list[Any] = ["plane", "oracle", "lowrank", {"cascade": [200]}]
CUTS = [{"top": [9, 40, 60]}, {"top": [0, 70, 30]}, {"top": [0, 0, 120]}, {"top": [FFN // 2, 0, 1]}]

many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def model(store: Path, act: str) -> tuple[Architecture, Quantised]:
    weights = Quantised(stored.contents(store), uniform(16), act == "auto", sums=Ordered())
    return Opened(store).architecture, weights


def ranked(
    store: Path, selector: Any, *cuts: Json, act: str = "auto", bits: int = 4, **options: Any
) -> Engine:
    """An engine, with predictors where its selector reads them."""
    engine = opened(store, sparse(selector, *cuts), act, **options)
    return engine if selector in ("plane", "oracle") else predicting(engine, bits)


def expected(
    store: Path, layer: int, x: Floats, selector: Any, cut: Json, act: str = "auto", bits: int = 4
) -> Floats:
    spec, weights = model(store, act)
    normed = decoder.norm(spec, weights, x, f"{layer}.norm.ffn")
    known = {one: factors(one, bits) for one in (0, 1)}
    recipe = reference.Recipe(selector, [cut], known, int8=act == "auto")
    return decoder.sparse_ffn(recipe, spec, weights, layer, normed)


def same(found: Floats, wanted: Floats) -> None:
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@st.composite
def tops(draw: st.DrawFn) -> Json:
    """Counts in all of 1 to FFN."""
    ends = sorted(draw(st.lists(st.integers(0, FFN), min_size=3, max_size=3).filter(any)))
    return {"top": [ends[0], ends[1] - ends[0], ends[2] - ends[1]]}


@many
@given(
    selector=st.sampled_from(SELECTORS), cut=tops(), bits=st.sampled_from([4, 8]),
    rows=st.sampled_from([1, 2, 7, 32]), layer=st.integers(0, 1), act=st.sampled_from(["auto", "f32"]),
    threads=st.integers(1, 3), share=st.sampled_from([0.0, 0.6, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_counted_neurons_are_the_reference(
    small: Path, selector: Any, cut: Json, bits: int, rows: int, layer: int, act: str, threads: int,
    share: float, seed: int,
) -> None:  # fmt: skip
    if isinstance(selector, dict):
        selector = {"cascade": [max(200, sum(cut["top"]))]}
    x, need = noise(rows, seed), needed(small, sparse(selector, cut))
    room = int(need["least"] + share * (need["all"] - need["least"]))
    engine = ranked(small, selector, cut, act=act, bits=bits, cache=room, threads=threads)
    wanted = expected(small, layer, x, selector, cut, act, bits)
    for _ in range(2):
        same(engine.ffn(layer, x), wanted)


@many
@given(
    selector=st.sampled_from(SELECTORS), rows=st.sampled_from([1, 5]), seed=st.integers(0, 99),
    shares=st.tuples(*[st.none() | st.floats(0, 1)] * 3).filter(lambda all: all != (None,) * 3),
    most=st.integers(1, FFN),
)  # fmt: skip
def test_neurons_above_thresholds_are_the_reference(
    small: Path, selector: Any, rows: int, seed: int, shares: tuple[float | None, ...], most: int
) -> None:
    """Thresholds that scores reach exactly, and more neurons above them than a token may have."""
    x = noise(rows, seed)
    scores = np.sort(ranked(small, selector, CUTS[1]).scores(0, x).ravel())[::-1]
    scores = scores[np.isfinite(scores)]
    finer = sorted(one for one in shares if one is not None)
    levels = [None if one is None else float(scores[int(finer.pop(0) * (scores.size - 1))]) for one in shares]
    cut = {"above": {"scores": levels, "most": most}}
    found = ranked(small, selector, cut).ffn(0, x)
    same(found, expected(small, 0, x, selector, cut))


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("act", ["auto", "f32"])
def test_all_neurons_at_one_level_are_the_dense_layer(
    small: Path, selector: Any, bits: int, act: str
) -> None:
    cut = {"top": [FFN if level == bits else 0 for level in (16, 8, 4)]}
    for rows in (1, 3, 32):
        x = noise(rows, rows)
        chosen = {"cascade": [FFN]} if isinstance(selector, dict) else selector
        same(ranked(small, chosen, cut, act=act).ffn(1, x), opened(small, dense(bits), act).ffn(1, x))


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("cut", [*CUTS, {"top": [1, 0, 0]}])
def test_partial_sums_add_up_to_the_whole(small: Path, selector: Any, cut: Json) -> None:
    engine, x = ranked(small, selector, cut), noise(4, 3)
    for spans in ([(0, 1), (1, CHUNKS)], [(0, CHUNKS)]):
        total = np.zeros_like(x)
        for span in spans:
            parts = engine.ffn(0, x, span)
            assert parts.shape == (span[1] - span[0], *x.shape)
            for part in parts:
                total += part
        same(total, engine.ffn(0, x))


def test_scores_are_what_the_selector_says(small: Path) -> None:
    x = noise(3, 1)
    for selector, bits in (("plane", 4), ("oracle", 16)):
        engine = opened(small, sparse(selector, {"top": [0, 5, 0]}))
        same(engine.scores(1, x), np.abs(opened(small, dense(bits)).neurons(1, x, bits)))
    with pytest.raises(UsageError, match=r"the recipe has no selector: .* open the store with one"):
        opened(small, dense(4)).scores(1, x)


def test_layers_may_be_cut_differently(small: Path) -> None:
    x, cuts = noise(2, 9), [{"top": [0, 0, 33]}, {"top": [12, 0, 7]}]
    engine = opened(small, sparse("plane", *cuts))
    for layer, cut in enumerate(cuts):
        same(engine.ffn(layer, x), expected(small, layer, x, "plane", cut))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of 33 blocks, the last one short: two times the sixteen that kernels take at once, and one."""
    folder, config = tmp_path_factory.mktemp("wide"), SMALL | {"hidden_size": 2100}
    checkpoint.save(folder / "model", config, tiny.weights(architecture_of(config)[1], seed=3), "BF16")
    (folder / "model/tokenizer.json").write_bytes((EXAMPLE / "tokenizer.json").read_bytes())
    convert(folder / "model", folder / "wide.m2c", planes="mid")
    return folder / "wide.m2c"


def test_a_token_alone_at_8_bits_begins_with_its_scan(wide: Path) -> None:
    """One token takes the integers that its scan kept, several do not; layers share their memory."""
    x = np.random.default_rng(5).standard_normal((3, 2100)).astype(np.float32)
    cuts = [{"top": [0, 70, 30]}, {"top": [0, 0, 20]}]
    engine = opened(wide, sparse("plane", *cuts))
    for layer in (0, 1, 0):
        want = expected(wide, layer, x, "plane", cuts[layer])
        same(engine.ffn(layer, x), want)
        for row, wanted in zip(x, want, strict=True):
            same(engine.ffn(layer, row[None]), wanted[None])


def test_prompt_tokens_stay_dense(small: Path) -> None:
    x = noise(40, 2)
    engine = opened(small, sparse("plane", CUTS[0]))
    same(engine.ffn(0, x, prompt=True), opened(small, dense(8)).ffn(0, x))
    assert counted(engine) == {"tokens": 0, "touched_bytes": 0, "neurons": [0, 0, 0], "selector_bytes": 0}


def test_more_tokens_than_a_set_has_bits_for_are_refused(small: Path) -> None:
    with pytest.raises(UsageError, match=r"33 decode tokens in a call of .*; 32 are the most: cut the batch"):
        opened(small, sparse("plane", CUTS[0])).ffn(0, noise(33, 1))


def decoded(engine: Engine, cuts: list[int]) -> Floats:
    """Ten tokens of a prompt and 24 decoded, in batches that end at `cuts`."""
    sequence, x = Sequence(engine), noise(34, 8)
    sequence.feed(x[:10], 0, True)
    edges = pairwise(sorted({10, 34, *cuts}))
    return np.concatenate([sequence.feed(x[a:b], a, False) for a, b in edges])


@cache
def truth(store: Path, selector: str, index: int) -> Floats:
    """With everything resident, on one thread, token by token."""
    return decoded(ranked(store, json.loads(selector), CUTS[index], threads=1), list(range(10, 34)))


@many
@given(
    selector=st.sampled_from(SELECTORS), index=st.integers(0, len(CUTS) - 1), share=st.floats(0, 1.1),
    cuts=st.lists(st.integers(11, 33), max_size=4), threads=st.integers(1, 4),
    io=st.sampled_from(["auto", "psync"]), verify=st.sampled_from(["first", "always", "never"]),
    lookahead=st.none() | st.integers(0, 1 << 20),
)  # fmt: skip
def test_budgets_readers_threads_and_batches_change_no_bit(
    small: Path, selector: Any, index: int, share: float, cuts: list[int], threads: int, io: str, verify: str,
    lookahead: int | None,
) -> None:  # fmt: skip
    recipe = sparse(selector, CUTS[index])
    need = needed(small, recipe)
    room = int(need["least"] + share * (need["all"] - need["least"]))
    options = {"cache": room, "threads": threads, "io": io, "verify": verify, "lookahead": lookahead}
    engine = ranked(small, selector, CUTS[index], **options)
    for _ in range(2):
        same(decoded(engine, cuts), truth(small, json.dumps(selector), index))


def counted(engine: Engine) -> Json:
    found: Json = json.loads(engine.stats())["ffn"]
    assert found.pop("trace_seconds") == 0
    return found


def record(bits: int) -> int:
    """Bytes of a record of 72 weights: two blocks of 64 and two groups of four bytes of scales."""
    return {4: 2 * 32 + 8, 8: 2 * 64 + 8, 16: 2 * 128 + 8}[bits]


@pytest.mark.parametrize("rows", [1, 3])
def test_touched_bytes_are_counted_by_hand(small: Path, rows: int) -> None:
    """gate and up of every neuron are scored; what the scan had is not touched again."""
    for selector, scanned in (("plane", 4), ("oracle", 16)):
        for cut in CUTS:
            engine, per_token, scan = opened(small, sparse(selector, cut)), 0, FFN * 2 * record(scanned)
            for layer in (0, 1):
                engine.ffn(layer, noise(rows, layer))
            for bits, count in zip((16, 8, 4), cut["top"], strict=True):
                per_token += count * (record(bits) + 2 * max(0, record(bits) - record(scanned)))
            assert counted(engine) == {
                "tokens": rows,
                "touched_bytes": 2 * rows * (scan + per_token),
                "neurons": [2 * rows * count for count in cut["top"]],
                "selector_bytes": 2 * rows * scan,
            }
            assert needed(small, sparse(selector, cut))["parts"]["ffn"] == 2 * (scan + per_token)


@pytest.mark.parametrize("bits", [4, 8])
def test_predictors_are_counted_by_hand(small: Path, bits: int) -> None:
    """Ranks of 9: down has 9 rows of 72, up 9 of 300; symmetric groups, and two vectors in f32."""
    down, up = (9, 2, 2 * 2), (9, 5, 5 * 2)
    rows = [count * (blocks * 32 * (bits // 4) + scales) for count, blocks, scales in (down, up)]
    predictor = sum(rows) + 2 * 4 * FFN
    active = 60 * 3 * record(8)
    for selector, scan in (("lowrank", 0), ({"cascade": [200]}, 200 * 2 * record(4))):
        engine, beside = (
            ranked(small, selector, {"top": [0, 60, 0]}, bits=bits),
            60 * 2 * record(4) if scan else 0,
        )
        engine.ffn(0, noise(3, 0))
        selecting = 3 * (predictor + scan)
        touched = selecting + 3 * (active - beside)
        expected = {
            "tokens": 3,
            "touched_bytes": touched,
            "neurons": [0, 180, 0],
            "selector_bytes": selecting,
        }
        assert counted(engine) == expected


@pytest.mark.parametrize("selector", ["lowrank", {"cascade": [40]}])
def test_a_predictor_that_is_missing_is_asked_for(small: Path, selector: Any) -> None:
    engine = opened(small, sparse(selector, {"top": [0, 0, 20]}))
    with pytest.raises(UsageError, match="layer 0 has none: m2cache profile makes them"):
        engine.ffn(0, noise(1, 0))
    with pytest.raises(UsageError, match=r"layers 2\.\.3 of a model with 2"):
        engine.set_predictor(2, *vars(factors(0)).values())
    with pytest.raises(UsageError, match="a predictor of 16 bits"):
        engine.set_predictor(0, *list(vars(factors(0)).values())[:4], 16)
    assert np.isfinite(predicting(engine).ffn(0, noise(1, 0))).all()


@pytest.mark.parametrize("paid", SELECTORS)
def test_a_trace_ranks_by_position_and_pays_for_its_selector(small: Path, paid: Any) -> None:
    trace = {"trace": {"paid": paid, "memory": 0.5, "skew": 1.0, "seed": 3}}
    cut = {"top": [0, 50, 40]}

    def engine(**options: Any) -> Engine:
        return predicting(opened(small, sparse(trace, cut), **options))

    one, other, real = engine(threads=1), engine(threads=2), ranked(small, paid, cut)
    found = decoded(one, list(range(11, 34)))
    same(decoded(other, [20]), found)
    assert (decoded(real, []) != found).any()
    mine, theirs = (json.loads(of.stats())["ffn"] for of in (one, real))
    assert mine["trace_seconds"] > theirs["trace_seconds"] == 0
    assert mine["selector_bytes"] == theirs["selector_bytes"] > 0
    assert mine["neurons"] == theirs["neurons"]
    with pytest.raises(UsageError, match="by the position of a token"):
        one.ffn(0, noise(1, 1))


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_dense_tokens_touch_every_neuron(small: Path, bits: int) -> None:
    engine = opened(small, dense(bits))
    for layer in (0, 1):
        for span in ((0, 1), (1, 2)):
            engine.ffn(layer, noise(3, layer), span)
    neurons = [2 * 3 * FFN if level == bits else 0 for level in (16, 8, 4)]
    touched = 2 * 3 * FFN * 3 * record(bits)
    assert counted(engine) == {"tokens": 3, "touched_bytes": touched, "neurons": neurons, "selector_bytes": 0}


def test_partial_calls_touch_as_much_as_the_whole(small: Path) -> None:
    whole, parts = (opened(small, sparse("plane", CUTS[0])) for _ in range(2))
    whole.ffn(0, noise(2, 0))
    for span in ((0, 1), (1, 2)):
        parts.ffn(0, noise(2, 0), span)
    assert counted(whole) == counted(parts)
