"""Neurons that coarse planes prove to be off are skipped: the bits of the dense layer, from fewer bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs.errors import UsageError
from m2cache_rs.models import architecture_of
from m2cache_rs.runtime.decoder import Floats

from tests.engines import FFN, Sequence, dense, needed, noise, opened, recipe
from tests.reference import tiny
from tests.stores import SMALL
from tests.test_parity import stored
from tests.test_sparse import counted, record


@pytest.fixture(scope="module", params=["bundled", "split", "gated"])
def rectified(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The small model with ReLU and biases in its FFN, in each preset of sections."""
    config = SMALL | {"hidden_act": "relu", "mlp_bias": True}
    weights = tiny.weights(architecture_of(config)[1], 5)
    with stored(tmp_path_factory.mktemp("relu"), config, weights, sections=request.param) as path:
        yield path


def same(found: Floats, wanted: Floats) -> None:
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bits=st.sampled_from([8, 16]), rows=st.sampled_from([1, 2, 9, 32]), act=st.sampled_from(["auto", "f32"]),
    threads=st.integers(1, 3), share=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
)  # fmt: skip
def test_its_bits_are_those_of_the_dense_layer(
    rectified: Path, bits: int, rows: int, act: str, threads: int, share: float, scale: float, seed: int
) -> None:
    x, proven = noise(rows, seed) * np.float32(scale), recipe({"certified": bits}, bits)
    need = needed(rectified, proven)
    room = int(need["least"] + share * (need["all"] - need["least"]))
    engine = opened(rectified, proven, act, cache=room, threads=threads)
    truth = opened(rectified, dense(bits), act)
    for layer in (0, 1):
        same(engine.ffn(layer, x), truth.ffn(layer, x))
        same(engine.ffn(layer, x, (1, 2)), truth.ffn(layer, x, (1, 2)))
    skipped = 1 - sum(counted(engine)["neurons"]) / sum(counted(truth)["neurons"])
    assert 0.05 < skipped < 0.7, "some are proven off, and half of all are on"


@pytest.mark.parametrize("bits", [8, 16])
def test_sequences_of_any_batches_are_dense(rectified: Path, bits: int) -> None:
    x = noise(30, 4)
    engines = opened(rectified, recipe({"certified": bits}, bits)), opened(rectified, dense(bits))
    mine, theirs = (Sequence(engine) for engine in engines)
    for start, stop, prompt in ((0, 7, True), (7, 8, False), (8, 30, False)):
        found, wanted = (of.feed(x[start:stop], start, prompt) for of in (mine, theirs))
        same(found, wanted)


def test_bytes_are_those_of_proofs_and_of_what_is_left(rectified: Path) -> None:
    """All look at gate in base, some in mid; what is left is read whole but for these."""
    x = noise(3, 1)
    for bits in (8, 16):
        engine = opened(rectified, recipe({"certified": bits}, bits))
        engine.ffn(0, x)
        found = counted(engine)
        used = sum(found["neurons"])
        selecting = 3 * FFN * record(4)
        if bits == 16:
            assert (found["selector_bytes"] - selecting) % (record(8) - record(4)) == 0
            looked_at = (found["selector_bytes"] - selecting) // (record(8) - record(4))
            assert used < looked_at < 3 * FFN
        else:
            assert found["selector_bytes"] == selecting
        known = record(4) if bits == 8 else record(8)
        assert found["touched_bytes"] == found["selector_bytes"] + used * (3 * record(bits) - known)
        assert found["tokens"] == 3


def test_wide_layers_are_proven_off_from_8_bits_on(tmp_path: Path) -> None:
    """4 bits prove next to nothing of a wide record: nobody looks at them alone."""
    width, rows = 576, 5
    config = SMALL | {"hidden_act": "relu", "hidden_size": width, "num_hidden_layers": 1}
    x = np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
    with stored(tmp_path, config, tiny.weights(architecture_of(config)[1], 5), sections="gated") as path:
        proven = recipe({"certified": 16}, 16)
        truth = opened(path, dense(16)).ffn(0, x)
        for cache in (needed(path, proven)["least"], None):
            engine = opened(path, proven, cache=cache)
            same(engine.ffn(0, x), truth)
            found = counted(engine)
            assert found["selector_bytes"] == rows * FFN * (width // 64) * (64 + 4)
            assert sum(found["neurons"]) < 0.9 * rows * FFN


def test_activations_that_are_never_zero_are_refused(small: Path) -> None:
    with pytest.raises(UsageError, match=r"certified needs an activation that is 0 below 0.*silu is not"):
        opened(small, recipe({"certified": 16}))
    with pytest.raises(UsageError, match="certified is 4"):
        opened(small, recipe({"certified": 4}))
