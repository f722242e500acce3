"""The tiny models and rotary embeddings whose golden files make.py records."""

from __future__ import annotations

from typing import Any

from tests.reference.tiny import CONFIG, QWEN2, rope

TOKENS = 40
"""Longer than every original context below, and than the context of `dynamic`."""

SHORT = 12
"""Shorter than every original context below: the other side of the rules that look at the length."""

_BIASES = {"attention_bias": True, "mlp_bias": True}
_DEEP = {"num_hidden_layers": 7, "num_attention_heads": 6}


def _model(**changes: Any) -> dict[str, Any]:
    return CONFIG | changes


def _rope(kind: str, factor: float = 4.0, context: int = 64, **changes: Any) -> dict[str, Any]:
    return {
        "max_position_embeddings": context,
        "rope_parameters": rope(kind, 24, 32, 100.0, factor) | changes,
    }


MODELS: dict[str, dict[str, Any]] = {
    "one-layer-tied": _model(tie_word_embeddings=True),
    "seven-layers-untied": _model(**_DEEP, intermediate_size=300),
    "seven-layers-tied-biases": _model(**_DEEP, **_BIASES, tie_word_embeddings=True, hidden_act="relu6"),
    "one-kv-head": _model(num_key_value_heads=1, hidden_act="swish"),
    "attention-bias": _model(attention_bias=True, hidden_act="relu"),
    "mlp-bias": _model(mlp_bias=True, hidden_act="relu2", num_attention_heads=6),
    "linear": _model(**_rope("linear"), hidden_act="gelu"),
    "dynamic": _model(**_rope("dynamic", context=32), hidden_act="gelu_new"),
    "yarn": _model(**_rope("yarn"), hidden_act="gelu_pytorch_tanh"),
    "yarn-options": _model(
        **_rope("yarn", beta_fast=4.0, beta_slow=0.5, mscale=1.0, mscale_all_dim=0.7, truncate=False),
        hidden_act="gelu_fast",
    ),
    "yarn-ratio": _model(**_rope("yarn", factor=None, attention_factor=1.25), hidden_act="gelu_accurate"),
    "longrope": _model(**_rope("longrope"), hidden_act="quick_gelu"),
    "longrope-factor": _model(**_rope("longrope") | {"original_max_position_embeddings": 20}),
    "llama3": _model(**_rope("llama3"), hidden_act="gelu_python"),
    "proportional": _model(**_rope("proportional"), hidden_act="gelu_python_tanh"),
    "written-by-4": _model(
        rope_parameters=None,
        rope_theta=300.0,
        rope_scaling={
            "type": "llama3",
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "written-by-4-linear": _model(
        rope_parameters=None, rope_theta=300, rope_scaling={"type": "linear", "factor": 2.0}
    ),
    "qwen2": _model(**QWEN2, num_hidden_layers=3, num_attention_heads=6),
    "qwen2-tied": _model(**QWEN2, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2-yarn": _model(
        **QWEN2,
        rope_parameters=None,
        rope_theta=300.0,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    ),
}

_LONG = {"short_factor": [1.0 + i / 96 for i in range(48)], "long_factor": [1.0 + i for i in range(48)]}
_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

ROPES: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "default": ({"rope_type": "default", "rope_theta": 10000.0}, 64, 1024, 600),
    "linear": ({"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.7}, 128, 4096, 10),
    "dynamic-within": ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, 128, 4096, 4096),
    "dynamic-beyond": ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, 128, 4096, 6001),
    "yarn": (
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768},
        128,
        131072,
        10,
    ),
    "longrope-short": (
        {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 4096} | _LONG,
        96,
        131072,
        4096,
    ),
    "longrope-long": (
        {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 4096} | _LONG,
        96,
        131072,
        4097,
    ),
    "llama3": ({"rope_type": "llama3", "rope_theta": 500000.0} | _LLAMA3, 128, 131072, 10),
    "proportional": (
        {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        256,
        4096,
        10,
    ),
}
"""Parameters as real checkpoints have them, head dimension, context, length of the sequence."""
