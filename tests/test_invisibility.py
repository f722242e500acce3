"""A cache is invisible: budgets, chunks, batches, checks, threads change no bit (docs/design.md, 1, 5b)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs import Model
from m2cache_rs._core import Engine, Store
from m2cache_rs.errors import BudgetError
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.decoder import Batch, Kind
from numpy.typing import NDArray

from tests import stores
from tests.stores import SMALL

PRECISIONS = [16, 8, 4, "attn=4,ffn=16,head=8,embed=8"]
IDS = [int(one) for one in np.random.default_rng(5).integers(0, SMALL["vocab_size"], 550)]
Row = NDArray[np.float32]

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def expected(store: Path, precision: int | str, count: int, kv: str = "f16") -> Row:
    """Logits with everything resident, on one thread, in decode batches."""
    with Model.open(store, precision=precision, threads=1, kv=kv) as model:
        rows = model.logits(IDS[:count])
    assert np.isfinite(rows).all()
    assert rows.std() > 0.1
    return rows


@cache
def needs(store: Path, precision: int | str) -> tuple[int, int]:
    """(all weights, least cache) in bytes."""
    weights = stores.needs(store, precision)
    return weights.all, weights.least


@many
@given(
    share=st.floats(0, 1.1), precision=st.sampled_from(PRECISIONS), count=st.integers(1, 70),
    verify=st.sampled_from(["first", "always", "never"]), threads=st.sampled_from([1, 2, 3]),
    path=st.sampled_from(["decode", "prompt"]), kv=st.sampled_from(["f16", "f32"]),
)  # fmt: skip
def test_budget_verification_threads_and_path(
    small: Path,
    share: float,
    precision: int | str,
    count: int,
    verify: str,
    threads: int,
    path: str,
    kv: str,
) -> None:
    everything, least = needs(small, precision)
    budget = int(least + share * (everything - least))
    with Model.open(small, cache=budget, precision=precision, verify=verify, threads=threads, kv=kv) as model:
        rows = model.logits(IDS[:count], path=path)
        again = model.logits(IDS[:count], path=path)
        stats = model.stats()
    assert rows.tobytes() == expected(small, precision, count, kv).tobytes() == again.tobytes()
    assert stats["fixed_bytes"] + stats["ring_bytes"] <= budget


def test_the_least_cache_that_is_named_is_the_least(small: Path) -> None:
    recipe = json.dumps(Recipe.dense(16).to_dict())
    _, least = needs(small, 16)
    Engine(Store(str(small)), recipe, cache=least)
    with pytest.raises(BudgetError, match=str(least)):
        Engine(Store(str(small)), recipe, cache=least - 1)


def feed(model: Model, cuts: Sequence[int], kinds: Sequence[Kind]) -> Row:
    """Logits of all IDS fed in pieces."""
    with model.sequence(len(IDS)) as sequence:
        edges = list(pairwise(sorted({0, *cuts, len(IDS)})))
        rows = [
            model.forward(Batch.run(np.array(IDS[a:b], np.uint32), sequence, a, kinds[i % len(kinds)]))
            for i, (a, b) in enumerate(edges)
        ]
    return np.concatenate(rows)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, 549), max_size=6),
    kinds=st.lists(st.sampled_from(Kind), min_size=1, max_size=3),
    precision=st.sampled_from([16, 4]), kv=st.sampled_from(["f16", "f32"]),
)  # fmt: skip
def test_chunk_boundaries_and_kinds(
    small: Path, cuts: list[int], kinds: list[Kind], precision: int, kv: str
) -> None:
    with Model.open(small, precision=precision, kv=kv) as model:
        assert feed(model, cuts, kinds).tobytes() == expected(small, precision, len(IDS), kv).tobytes()


@pytest.mark.parametrize(("precision", "kv"), [*((one, "f16") for one in PRECISIONS), (16, "f32")])
def test_batch_invariance_on_the_decode_path(small: Path, precision: int | str, kv: str) -> None:
    """Sequences of different lengths decode one token each, alone and 1..32 together."""
    with Model.open(small, precision=precision, kv=kv) as model:
        alone = [step(model, [length]) for length in range(1, 33)]
        for n in range(1, 33):
            together = step(model, list(range(1, n + 1)))
            for i in range(n):
                assert together[i].tobytes() == alone[i][0].tobytes(), f"row {i} of {n}"


def step(model: Model, lengths: list[int]) -> Row:
    """Logits of the token behind the first `length` IDS, for every length, in one batch."""
    with model.sequence(64) as base:
        model.forward(Batch.run(np.array(IDS[:40], np.uint32), base, 0, Kind.PROMPT))
        sequences = [fork(model, base, length) for length in lengths]
        n = len(lengths)
        batch = Batch(
            np.array(lengths, np.uint32), np.array(sequences, np.uint32), np.full(n, Kind.DECODE, np.uint8),
            tokens=np.array([IDS[length] for length in lengths], np.uint32),
        )  # fmt: skip
        rows = model.forward(batch)
        for sequence in sequences:
            with model.turn() as backend:
                backend.free(sequence)
    return rows


def fork(model: Model, base: int, length: int) -> int:
    with model.turn() as backend:
        sequence = backend.fork(base)
        backend.truncate(sequence, length)
    return sequence


def test_rows_of_a_batch_are_those_of_the_sequence(small: Path) -> None:
    with Model.open(small, precision=8) as model:
        rows = step(model, [3, 17, 33])
    assert rows.tobytes() == expected(small, 8, 40)[[3, 17, 33]].tobytes()


@pytest.mark.parametrize("flags", [{}, {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.1}])
def test_the_same_seed_gives_the_same_text_across_cache_sizes(tale: Path, flags: dict[str, float]) -> None:
    everything, least = needs(tale, 8)
    texts = set()
    for budget in (least, (least + everything) // 2, everything):
        with Model.open(tale, cache=budget, precision=8) as model:
            tokens = list(model.generate("In the beginning", 24, seed=11, **flags))  # type: ignore[arg-type]
        texts.add(json.dumps([(token.id, token.text) for token in tokens]))
    assert len(texts) == 1


def test_what_is_not_in_the_cache_is_read(tale: Path) -> None:
    everything, least = needs(tale, 8)
    with Model.open(tale, cache=everything, precision=8) as model:
        model.logits(IDS[:4])
        model.logits(IDS[:4])
        resident = model.stats()["read_bytes"]
    with Model.open(tale, cache=least, precision=8) as model:
        model.logits(IDS[:4])
        once = model.stats()["read_bytes"]
        model.logits(IDS[:4])
        twice = model.stats()["read_bytes"]
    assert resident <= everything * 1.01
    assert twice - once > everything // 2
