"""The reference decoder against transformers, through the golden files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from m2cache_rs.models import architecture_of

from tests.reference import checkpoint, llama2c, tiny
from tests.reference.decoder import forward
from tests.reference.weights import Plain, Quantised, uniform

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "tiny.json").read_text())["cases"]

F32_LOGITS = 1e-4  # float32 sums in another order; logits of these models reach 35
CODED_LOGITS = 5e-3  # weights 83 to 93 dB from the original
TALE_LOGITS = 1e-3
CLEAR_GAP = 5e-3  # the lead of the top token beyond which it must be the same


def golden(name: str, what: str) -> np.ndarray:
    with np.load(GOLDEN / "tiny.npz") as arrays:
        return arrays[f"{name}.{what}"]


@pytest.mark.parametrize("name", CASES)
def test_tiny_models(name: str) -> None:
    arch = architecture_of(CASES[name]["config"])[1]
    weights, ids = Plain(tiny.weights(arch, CASES[name]["seed"])), golden(name, "ids")
    expected, short = golden(name, "logits"), golden(name, "short")
    assert np.abs(forward(arch, weights, ids) - expected).max() < F32_LOGITS
    assert np.abs(forward(arch, weights, ids[:12])[-1:] - short).max() < F32_LOGITS
    assert np.abs(forward(arch, weights, ids[:12], len(ids)) - expected[:12]).max() < F32_LOGITS


@pytest.mark.parametrize("name", ["dynamic", "longrope", "longrope-factor"])
def test_ropes_that_look_at_the_length_differ(name: str) -> None:
    """Guards the golden files: without this difference the rule of the length would not be tested."""
    assert np.abs(golden(name, "short")[0] - golden(name, "logits")[11]).max() > 0.1


@pytest.mark.parametrize("form", ["symmetric", "affine"])
@pytest.mark.parametrize("name", ["seven-layers-tied-biases", "seven-layers-untied"])
def test_sixteen_bits_are_near(name: str, form: str) -> None:
    arch = architecture_of(CASES[name]["config"])[1]
    weights = Quantised(tiny.weights(arch, CASES[name]["seed"]), uniform(16), form=form)
    assert np.abs(forward(arch, weights, golden(name, "ids")) - golden(name, "logits")).max() < CODED_LOGITS


@pytest.mark.parametrize("form", ["symmetric", "affine"])
@pytest.mark.parametrize("group", [32, 64])
def test_fewer_bits_are_further(form: str, group: int) -> None:
    case = CASES["mlp-bias"]
    arch, ids, exact = (
        architecture_of(case["config"])[1],
        golden("mlp-bias", "ids"),
        golden("mlp-bias", "logits"),
    )
    named = tiny.weights(arch, case["seed"])
    error = {
        (bits, int8): np.std(forward(arch, Quantised(named, uniform(bits), int8, form, group), ids) - exact)
        for bits in (4, 8, 16)
        for int8 in (False, True)
    }
    assert error[16, True] == error[16, False]
    assert error[16, False] * 100 < error[8, False] < error[8, True] < error[4, False]
    assert error[4, True] < 0.5 * exact.std()


def test_stories(shared: Path) -> None:
    """Every next token of the recorded text is the reference's top token, too."""
    story = json.loads((GOLDEN / "stories260K.json").read_text())
    config, named = llama2c.load(shared / "data/models/stories260K.bin")
    logits = forward(architecture_of(config)[1], Plain(named), story["prompt"] + story["tokens"])
    assert logits[:-1].argmax(1).tolist() == story["tokens"]
    pieces = llama2c.vocabulary(shared / "data/models/tok512.bin")
    assert llama2c.text(pieces, story["tokens"]) == story["text"]


@pytest.mark.parametrize("name", ["tale-silu", "tale-relu"])
def test_tales(name: str, shared: Path) -> None:
    _, arch, named = checkpoint.load(shared / "data/models" / name)
    with np.load(GOLDEN / f"{name}.npz") as golden:
        logits = np.concatenate([forward(arch, Plain(named), ids) for ids in golden["ids"]]).astype(
            np.float64
        )
        peak = logits.max(1)
        clear = golden["gap"] > CLEAR_GAP
        assert clear.mean() > 0.9
        assert (logits.argmax(1) == golden["top"])[clear].all()
        assert np.abs(peak - golden["peak"]).max() < TALE_LOGITS
        log_sum = np.log(np.exp(logits - peak[:, None]).sum(1)) + peak
        assert np.abs(log_sum - golden["log_sum"]).max() < TALE_LOGITS
        assert np.abs(logits.std(1) - golden["deviation"]).max() < TALE_LOGITS


@settings(max_examples=25, deadline=None)
@given(tiny.configs(), st.integers(0, 999), st.sampled_from(["F32", "BF16", "F16"]), st.integers(1, 3))
def test_checkpoints_come_back(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, object], seed: int, dtype: str, shards: int
) -> None:
    arch = architecture_of(config)[1]
    named, folder = tiny.weights(arch, seed), tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder, config, named, dtype, shards)
    again, spec, values = checkpoint.load(folder)
    assert (again, spec, set(values)) == (config, arch, set(named))
    step = {"F32": 0.0, "BF16": 2.0**-8, "F16": 2.0**-11}[dtype]
    for name, array in values.items():
        assert (np.abs(array - named[name]) <= step * np.abs(named[name]) + (2.0**-24 if step else 0)).all()
