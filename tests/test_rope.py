"""Inverse frequencies against transformers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs.errors import CheckpointError, StoreError, UnsupportedError
from m2cache_rs.models import Architecture, architecture_of
from m2cache_rs.models.rope import inverse_frequencies, positions

from tests.reference.tiny import CONFIG, rope

CASES = json.loads((Path(__file__).parent / "golden/rope.json").read_text())["cases"]

POWER_ULPS = 2
"""torch's float32 power is up to one unit off the nearest float32; a product and a reciprocal follow. With
torch's powers in the place of ours every bit agrees (tests/torch/test_rope.py)."""


def spec_of(parameters: dict[str, Any], **changes: Any) -> Architecture:
    return architecture_of(CONFIG | {"rope_parameters": parameters} | changes)[1]


@pytest.mark.parametrize("name", CASES)
def test_frequencies_are_those_of_transformers(name: str) -> None:
    case = CASES[name]
    spec = architecture_of(case["config"])[1]
    found, factor = inverse_frequencies(spec.rope, spec.head_dim, spec.context, case["length"])
    expected = np.array(case["frequencies"], np.float32)
    assert found.dtype == np.float32
    assert np.abs(found.view(np.int32).astype(np.int64) - expected.view(np.int32)).max() <= POWER_ULPS
    assert factor == pytest.approx(case["attention_factor"], rel=1e-12)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_the_length_matters_only_beyond_the_original_context(kind: str) -> None:
    spec = spec_of(rope(kind, 24, 64, 10000.0, 4.0))
    limit = 32 if kind == "longrope" else 64
    one, at, beyond = (
        inverse_frequencies(spec.rope, 24, spec.context, length)[0] for length in (1, limit, limit + 1)
    )
    assert (one == at).all()
    assert (beyond <= at).all()
    assert (beyond < at).any()


@pytest.mark.parametrize("kind", ["default", "linear", "proportional", "yarn", "llama3"])
def test_the_length_does_not_matter(kind: str) -> None:
    spec = spec_of(rope(kind, 24, 64, 10000.0, 4.0))
    few, many = (inverse_frequencies(spec.rope, 24, spec.context, length)[0] for length in (1, 1000))
    assert (few == many).all()


def test_positions_reach_as_far_as_the_scaling() -> None:
    expected = {"default": 64, "linear": 64, "llama3": 64, "longrope": 64, "dynamic": 256, "yarn": 128}
    found = {kind: positions(spec_of(rope(kind, 24, 64, 10000.0, 4.0)).rope, 64) for kind in expected}
    assert found == expected


def test_transformers_4_and_5_write_the_same_rope() -> None:
    new = rope("llama3", 24, 64, 300.0, 8.0)
    old = {name: value for name, value in new.items() if name != "rope_theta"}
    for scaling in (old, {("type" if k == "rope_type" else k): v for k, v in old.items()}):
        config = CONFIG | {"rope_scaling": scaling, "rope_theta": 300.0}
        del config["rope_parameters"]
        assert architecture_of(config)[1].rope == spec_of(new).rope


def test_absent_parameters_take_the_defaults_of_transformers() -> None:
    plain = {k: v for k, v in CONFIG.items() if k != "rope_parameters"}
    assert architecture_of(plain)[1].rope == {"type": "default", "theta": 10000.0}
    assert architecture_of(plain | {"rope_scaling": None, "rope_theta": 5})[1].rope["theta"] == 5.0
    yarn = spec_of({"rope_type": "yarn", "factor": 2.0})
    assert yarn.rope["original_max_position_embeddings"] == 64
    top = spec_of({"rope_type": "yarn", "factor": 2.0}, original_max_position_embeddings=16)
    assert top.rope["original_max_position_embeddings"] == 16


@pytest.mark.parametrize(
    ("parameters", "error", "says"),
    [
        ({"rope_type": "axial"}, UnsupportedError, "'axial' is not supported.*llama3.*yarn"),
        ({"rope_type": 3}, CheckpointError, r"rope_parameters\.rope_type is 3"),
        ({"rope_type": "linear"}, CheckpointError, r"rope_parameters\.factor is missing"),
        ({"rope_type": "linear", "factor": 0}, CheckpointError, r"rope_parameters\.factor is 0"),
        ({"rope_type": "linear", "factor": float("nan")}, CheckpointError, r"rope_parameters\.factor is nan"),
        ({"rope_theta": -1.0}, CheckpointError, r"rope_parameters\.rope_theta is -1\.0"),
        ({"rope_type": "llama3", "factor": 8.0}, CheckpointError, r"rope_parameters\.low_freq_factor "),
        (rope("longrope", 22, 64, 1e4, 4.0), CheckpointError, "short_factor.*a list of 12 numbers"),
        (
            {"rope_type": "default", "partial_rotary_factor": 0.5},
            UnsupportedError,
            "partial_rotary_factor is 0.5",
        ),
        ({"rope_type": "proportional", "partial_rotary_factor": 2}, CheckpointError, "a number from 0 to 1"),
        ({"full_attention": {"rope_type": "default"}}, UnsupportedError, "several rotary embeddings"),
        ({"rope_type": "default", "mrope_section": [4, 4, 4]}, UnsupportedError, "several rotary embeddings"),
        (
            {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1.0},
            UnsupportedError,
            "'yarn' cannot be computed",
        ),
        (
            rope("longrope", 24, 64, 1e4, 4.0) | {"original_max_position_embeddings": 1},
            UnsupportedError,
            "'longrope' cannot be computed",
        ),
    ],
)
def test_what_is_refused(parameters: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        spec_of(parameters)


def test_dynamic_needs_more_than_one_pair() -> None:
    with pytest.raises(UnsupportedError, match="'dynamic' cannot be computed"):
        spec_of(rope("dynamic", 2, 64, 1e4, 4.0), head_dim=2)


def test_a_manifest_with_a_broken_rope_is_a_store_error() -> None:
    values = spec_of(rope("linear", 24, 64, 1e4, 4.0)).to_dict()
    del values["rope"]["factor"]
    with pytest.raises(StoreError, match=r"architecture: rope\.factor is missing"):
        Architecture.from_dict(values)
