"""Inverse frequencies are transformers' to the bit, but for torch's float32 power."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from m2cache_rs.models import architecture_of, rope
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.reference import tiny

KINDS = ["default", "linear", "proportional", "dynamic", "yarn", "longrope", "llama3"]


def torch_power(base: np.float32, exponent: Any) -> Any:
    if np.ndim(exponent) == 0:
        return np.float32((torch.tensor(base) ** float(exponent)).item())
    return torch.pow(float(base), torch.tensor(exponent)).numpy()


def test_every_type_is_known() -> None:
    assert sorted(KINDS) == sorted({"default", *ROPE_INIT_FUNCTIONS})


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    head_dim=st.sampled_from([8, 24, 64, 80, 128]),
    context=st.sampled_from([32, 48, 100, 4096]),
    theta=st.sampled_from([100.0, 10000.0, 12345.6, 5e5]),
    factor=st.sampled_from([1.0, 1.1, 3.7, 8.0, 32.0]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "truncate": st.booleans(),
            "beta_fast": st.sampled_from([16, 32.0]),
            "beta_slow": st.sampled_from([1, 2.0]),
            "attention_factor": st.floats(0.5, 2.0),
            "mscale": st.floats(0.1, 2.0),
            "mscale_all_dim": st.floats(0.1, 2.0),
        },
    ),
    length=st.integers(1, 200),
)
def test_frequencies_are_those_of_transformers(
    kind: str,
    head_dim: int,
    context: int,
    theta: float,
    factor: float,
    options: dict[str, Any],
    length: int,
) -> None:
    parameters = tiny.rope(kind, head_dim, context, theta, factor) | options
    config = tiny.CONFIG | {
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "rope_parameters": parameters,
    }
    spec = architecture_of(config)[1]
    embedding = LlamaRotaryEmbedding(transformers.LlamaConfig.from_dict(json.loads(json.dumps(config))))
    embedding(torch.zeros(1), torch.arange(length)[None])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rope, "_power", torch_power)
        found, attention = rope.inverse_frequencies(spec.rope, head_dim, context, length)
    assert (found == embedding.inv_freq.numpy()).all()
    assert attention == pytest.approx(float(embedding.attention_scaling), rel=1e-12)
