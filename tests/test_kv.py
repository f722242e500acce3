"""Keys and values: what they cost, and what happens when there is no room for more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from m2cache_rs import BudgetError, Model, UsageError
from m2cache_rs._core import Engine, KvCache, Store
from m2cache_rs.models.rope import inverse_frequencies
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.cpu import CpuBackend
from m2cache_rs.runtime.decoder import Batch, Decoder, Kind

IDS = np.arange(40, 240, dtype=np.uint32)

# Layers, KV heads, head dimension; bytes a position in f16.
LLAMA2_7B = (32, 32, 128), 512 << 10
LLAMA3_8B = (32, 8, 128), 128 << 10


@pytest.mark.parametrize(("shape", "position"), [LLAMA2_7B, LLAMA3_8B])
def test_bytes_of_known_shapes(shape: tuple[int, int, int], position: int) -> None:
    assert KvCache.bytes_for(*shape, "f16", 4096) == 4096 * position
    assert KvCache.bytes_for(*shape, "f32", 4096) == 2 * 4096 * position
    assert KvCache.bytes_for(*shape, "f16", 1) == KvCache.bytes_for(*shape, "f16", 64) == 64 * position


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1, 4, "q8"), "f16 and f32 are known"),
        ((1, 1, 4, "f16", 0), "capacity of 0"),
        ((1, 1, 3), "head dimension of 3"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KvCache(*arguments)


@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_a_model_counts_what_its_sequences_take(tale: Path, kv: str) -> None:
    with Model.open(tale, precision=4, kv=kv) as model:
        spec = model.architecture
        with model.sequence(200) as sequence:
            model.forward(Batch.run(IDS[:130], sequence, 0, Kind.PROMPT))
            stats = model.stats()
        assert stats["kv_bytes"] == KvCache.bytes_for(spec.layers, spec.kv_heads, spec.head_dim, kv, 130)
        assert (stats["kv"], stats["kv_capacity"]) == (kv, None)
        assert model.stats()["kv_bytes"] == 0


def test_beyond_the_capacity_is_an_error_that_leaves_all_usable(tale: Path) -> None:
    with Model.open(tale, precision=4) as model:
        spec, expected = model.architecture, model.logits(IDS[:128])
        rope = inverse_frequencies(spec.rope, spec.head_dim, spec.context, 128)
    backend = CpuBackend(Engine(Store(str(tale)), Recipe.dense(4).core(spec)), spec, capacity=128)
    decoder, sequence = Decoder(backend, spec.layers), backend.create(*rope)
    decoder.forward(Batch.run(IDS[:70], sequence, 0, Kind.PROMPT))
    with pytest.raises(BudgetError, match=r"position 128 of sequence 0 .*128 over all sequences.*--ctx"):
        decoder.forward(Batch.run(IDS[70:200], sequence, 70, Kind.PROMPT))
    other = backend.create(*rope)
    with pytest.raises(BudgetError, match="position 0 of sequence 1"):
        decoder.forward(Batch.run(IDS[:1], other, 0, Kind.DECODE))
    assert (backend.length(sequence), backend.length(other)) == (70, 0)
    rows = decoder.forward(Batch.run(IDS[70:128], sequence, 70, Kind.PROMPT))
    assert rows.tobytes() == expected[70:].tobytes()
    assert backend.kv.bytes() == KvCache.bytes_for(spec.layers, spec.kv_heads, spec.head_dim, "f16", 128)
    backend.free(sequence)
    rows = decoder.forward(Batch.run(IDS[:128], other, 0, Kind.DECODE))
    assert rows.tobytes() == expected.tobytes()
