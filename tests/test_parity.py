"""The Rust engine, through converted stores and the public Model, against the reference and golden files.

Parity with transformers itself, live, is in tests/torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs import Model
from m2cache_rs.convert import convert
from m2cache_rs.eval.metrics import kl_divergence, log_softmax
from m2cache_rs.models import architecture_of
from m2cache_rs.runtime.decoder import Batch, Kind

from tests.reference import checkpoint, store, text, tiny
from tests.reference.decoder import forward
from tests.reference.sums import Ordered
from tests.reference.weights import Plain, Quantised, uniform

Array = np.ndarray[Any, Any]
GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "tiny.json").read_text())["cases"]

# Relative to the standard deviation of the logits, which is 3 to 10 for these models.
SAME_NUMBERS = 1e-5  # the same sums in the same order: exponentials alone are rounded apart
SIXTEEN_BITS = 1e-3  # against the unquantised model
KV_ROUNDED_APART = 1e-3  # where it sent a key or value to the other of two f16 steps
ROUNDED_APART = 0.1  # where an exponential's last bit sent an activation to the other of two int8 steps

KL_SAME_QUANTISATION = 1e-5
KL_SIXTEEN_BITS = 1e-6
KL_EIGHT_BITS = 3e-3


@contextmanager
def stored(folder: Path, config: dict[str, Any], named: dict[str, Array], **options: Any) -> Iterator[Path]:
    """A store of these weights, from a float32 checkpoint."""
    checkpoint.save(folder / "model", config, named)
    (folder / "model/tokenizer.json").write_text('{"not": "read here"}')
    convert(folder / "model", folder / "model.m2c", **options)
    yield folder / "model.m2c"


def logits(
    path: Path, ids: Array, precision: int, act: str = "auto", kind: Kind = Kind.DECODE, kv: str = "f32"
) -> Array:
    """One sequence's logits; unlike Model.logits also beyond the context, where dynamic rope begins.

    Keys and values in f32 by default, as the references keep them.
    """
    with Model.open(path, precision=precision, act=act, kv=kv) as model, model.sequence(len(ids)) as sequence:
        return model.forward(Batch.run(np.asarray(ids, np.uint32), sequence, 0, kind))


def distance(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / expected.std())


@pytest.mark.parametrize("name", CASES)
def test_tiny_models_equal_transformers(name: str, tmp_path: Path) -> None:
    config = CASES[name]["config"]
    named = tiny.weights(architecture_of(config)[1], CASES[name]["seed"])
    with stored(tmp_path, config, named) as path, np.load(GOLDEN / "tiny.npz") as golden:
        ids, expected = golden[f"{name}.ids"], golden[f"{name}.logits"]
        assert distance(logits(path, ids, 16), expected) < SIXTEEN_BITS
        assert distance(logits(path, ids, 16, kind=Kind.PROMPT), expected) < SIXTEEN_BITS
        assert distance(logits(path, ids[:12], 16)[-1:], golden[f"{name}.short"]) < SIXTEEN_BITS


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    config=tiny.configs(),
    seed=st.integers(0, 9999),
    form=st.sampled_from(["symmetric", "affine"]),
    group=st.sampled_from([32, 64]),
    bits=st.sampled_from([4, 8, 16]),
)
def test_random_models_equal_the_reference(
    tmp_path_factory: pytest.TempPathFactory,
    config: dict[str, Any],
    seed: int,
    form: str,
    group: int,
    bits: int,
) -> None:
    arch = architecture_of(config)[1]
    named, ids = tiny.weights(arch, seed), tiny.tokens(arch, 40, seed)
    expected = forward(arch, Quantised(named, uniform(bits), False, form, group, Ordered()), ids)
    folder = tmp_path_factory.mktemp("random")
    with stored(folder, config, named, form=form, group=group, equalize=False) as path:
        assert distance(logits(path, np.array(ids), bits, act="f32"), expected) < SAME_NUMBERS


def test_keys_and_values_in_f16_equal_the_reference(tmp_path: Path) -> None:
    """To the last bits with one layer, whose keys and values see no exponential; else but for a rare step."""
    apart: dict[bool, list[float]] = {True: [], False: []}
    for name, case in CASES.items():
        arch = architecture_of(case["config"])[1]
        named, ids = tiny.weights(arch, case["seed"]), tiny.tokens(arch, 90, case["seed"])
        twin = Quantised(named, uniform(16), sums=Ordered())
        with stored(tmp_path / name, case["config"], named, equalize=False) as path:
            found = logits(path, np.array(ids), 16, kv="f16")
            assert (found != logits(path, np.array(ids), 16)).any()
        apart[arch.layers == 1].append(distance(found, forward(arch, twin, ids, kv="f16")))
    assert apart[True]
    assert max(apart[True]) < SAME_NUMBERS
    assert max(apart[False]) < KV_ROUNDED_APART


@pytest.mark.parametrize("form", ["symmetric", "affine"])
@pytest.mark.parametrize("group", [32, 64])
def test_int8_activations_equal_the_reference(form: str, group: int, tmp_path: Path) -> None:
    """But for the rare activation that rounds to the other step: four models in five must be free of it."""
    apart = []
    for name, case in CASES.items():
        arch = architecture_of(case["config"])[1]
        named, ids = tiny.weights(arch, case["seed"]), tiny.tokens(arch, 40, case["seed"])
        with stored(tmp_path / name, case["config"], named, form=form, group=group, equalize=False) as path:
            for bits in (4, 8):
                expected = forward(arch, Quantised(named, uniform(bits), True, form, group, Ordered()), ids)
                apart.append(distance(logits(path, np.array(ids), bits), expected))
    assert np.quantile(apart, 0.8) < SAME_NUMBERS
    assert max(apart) < ROUNDED_APART


@pytest.mark.parametrize("name", ["tale-silu", "tale-relu"])
def test_tales_equal_the_reference(name: str, shared: Path, tmp_path: Path) -> None:
    source = shared / "data/models" / name
    _, arch, named = checkpoint.load(source)
    convert(source, tmp_path / "tale.m2c")
    (ids,) = text.windows(shared, source / "tokenizer.json", 300, ("world192",))
    plain = log_softmax(forward(arch, Plain(named), ids))
    sixteen, eight = (log_softmax(logits(tmp_path / "tale.m2c", np.array(ids), bits)) for bits in (16, 8))
    assert kl_divergence(plain, sixteen).mean() < KL_SIXTEEN_BITS
    assert kl_divergence(plain, eight).mean() < KL_EIGHT_BITS
    twin = Quantised(store.contents(tmp_path / "tale.m2c"), uniform(8), sums=Ordered())
    assert kl_divergence(log_softmax(forward(arch, twin, ids)), eight).mean() < KL_SAME_QUANTISATION


def test_stories_as_transformers_tells_it(shared: Path, tmp_path: Path) -> None:
    """The 200 greedy tokens, through the importer of the llama2.c format."""
    story = json.loads((GOLDEN / "stories260K.json").read_text())
    models = shared / "data/models"
    convert(models / "stories260K.bin", tmp_path / "stories.m2c", tokenizer=models / "tok512.bin")
    with Model.open(tmp_path / "stories.m2c", precision=16, kv="f32") as model:
        tokens = list(model.generate(story["prompt"], max_new_tokens=len(story["tokens"]), temperature=0.0))
    assert [token.id for token in tokens] == story["tokens"]
    assert "".join(token.text for token in tokens).strip() == story["text"].strip()
