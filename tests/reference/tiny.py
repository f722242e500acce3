"""Tiny models: weights that any machine regenerates from a seed, and random configurations."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st
from m2cache_rs.models import Architecture
from m2cache_rs.models.llama import ACTIVATIONS
from numpy.typing import NDArray

from tests.reference.checkpoint import tensors

Array = NDArray[Any]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 72,
    "head_dim": 24,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "intermediate_size": 100,
    "num_hidden_layers": 1,
    "vocab_size": 259,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
"""No size of it is a multiple of a block, a group or a chunk."""

QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "use_sliding_window": False,
    "sliding_window": 16,
    "max_window_layers": 0,
}
"""What makes it one of Qwen2, as checkpoints have it: a window that is named and not used."""


def weights(arch: Architecture, seed: int) -> dict[str, Array]:
    """Float32 weights by the decoder's names; every tensor has a stream of its own.

    They are drawn from the raw uniform stream of the legacy Mersenne twister, which numpy keeps for ever, so
    golden files need not hold them. Activations stay near 1 and logits a few units wide.
    """
    return {name: _draw(arch, name, tensor.shape, tensor.columns, seed) for name, tensor in tensors(arch)}


def tokens(arch: Architecture, count: int, seed: int) -> list[int]:
    """Random token ids."""
    return [int(i) for i in np.random.RandomState(seed).randint(0, arch.vocab, count)]


def _draw(arch: Architecture, name: str, shape: tuple[int, ...], columns: bool, seed: int) -> Array:
    uniform = np.random.RandomState([seed, zlib.crc32(name.encode())]).random_sample(
        shape[::-1] if columns else shape
    )
    centred = (2 * uniform - 1).astype(np.float32)
    if "norm" in name:
        return np.float32(1) + np.float32(0.3) * centred
    if "bias" in name:
        return np.float32(0.3) * centred
    spread = {"embed": 1.0, "head": 3.0}.get(name, 1.0) * (3 / (1 if name == "embed" else shape[-1])) ** 0.5
    return np.float32(spread) * centred


def configs(context: int = 32) -> st.SearchStrategy[dict[str, Any]]:
    """Random configurations with any supported activation, rope, head layout and bias."""
    return st.builds(
        _config,
        context=st.just(context),
        head_dim=st.sampled_from([2, 8, 24, 34]),
        kv_heads=st.integers(1, 3),
        share=st.integers(1, 3),
        blocks=st.integers(1, 3),
        ffn=st.sampled_from([1, 40, 257, 300]),
        layers=st.integers(1, 3),
        vocab=st.integers(2, 300),
        act=st.sampled_from(sorted(ACTIVATIONS)),
        flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
        rope=st.sampled_from(["default", "linear", "proportional", "dynamic", "yarn", "longrope", "llama3"]),
        family=st.sampled_from([{}, QWEN2]),
        theta=st.sampled_from([100.0, 10000.0, 500000.0]),
        factor=st.sampled_from([1.0, 1.5, 4.0, 8.0]),
    )


def _config(**draw: Any) -> dict[str, Any]:
    heads = draw["kv_heads"] * draw["share"]
    tied, attention_bias, mlp_bias = draw["flags"]
    head_dim = max(draw["head_dim"], 4) if draw["rope"] == "dynamic" else draw["head_dim"]
    return (CONFIG | draw["family"]) | {
        "hidden_size": heads * 8 * draw["blocks"],
        "head_dim": head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": draw["kv_heads"],
        "intermediate_size": draw["ffn"],
        "num_hidden_layers": draw["layers"],
        "vocab_size": draw["vocab"],
        "max_position_embeddings": draw["context"],
        "hidden_act": draw["act"],
        "tie_word_embeddings": tied,
        "attention_bias": attention_bias,
        "mlp_bias": mlp_bias,
        "rope_parameters": rope(draw["rope"], head_dim, draw["context"], draw["theta"], draw["factor"]),
    }


def rope(kind: str, head_dim: int, context: int, theta: float, factor: float) -> dict[str, Any]:
    """Parameters of a rope type, with an original context of half of `context`."""
    values: dict[str, Any] = {"rope_type": kind, "rope_theta": theta}
    if kind in ("linear", "dynamic", "yarn", "llama3"):
        values["factor"] = factor
    if kind in ("yarn", "longrope", "llama3"):
        values["original_max_position_embeddings"] = context // 2
    if kind == "longrope":
        values["short_factor"] = [1 + i / head_dim for i in range(head_dim // 2)]
        values["long_factor"] = [1 + i * factor / 4 for i in range(head_dim // 2)]
    if kind == "llama3":
        values |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "proportional":
        values["partial_rotary_factor"] = 0.5
    return values
