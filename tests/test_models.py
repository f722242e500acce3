"""Configurations of checkpoints as architecture specs, where their tensors lie, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from m2cache_rs.errors import CheckpointError, StoreError, UnsupportedError
from m2cache_rs.models import Architecture, architecture_of, family_of, llama

from tests.reference import tiny
from tests.reference.checkpoint import tensors
from tests.reference.tiny import CONFIG, QWEN2


def spec_of(**changes: Any) -> Architecture:
    return architecture_of(CONFIG | changes)[1]


def test_a_configuration_becomes_a_spec() -> None:
    assert spec_of(attention_bias=True).to_dict() == {
        "family": "llama",
        "layers": 1,
        "hidden": 72,
        "ffn": 100,
        "heads": 3,
        "kv_heads": 3,
        "head_dim": 24,
        "vocab": 259,
        "context": 64,
        "norm_eps": 1e-5,
        "activation": "silu",
        "gated": True,
        "tied": False,
        "biases": ["q", "k", "v", "o"],
        "attention_scale": 24**-0.5,
        "rope": {"type": "default", "theta": 10000.0},
        "rope_layout": "half",
        "moe": None,
        "sliding_window": None,
        "qk_norm": False,
        "soft_cap": None,
        "partial_rope": 1.0,
        "parallel_blocks": False,
        "alibi": False,
    }


def test_absent_fields_take_the_defaults_of_transformers() -> None:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    spec = architecture_of({"model_type": "llama", **{name: CONFIG[name] for name in sizes}})[1]
    assert (spec.kv_heads, spec.head_dim, spec.context, spec.norm_eps) == (3, 24, 2048, 1e-6)
    assert (spec.activation, spec.tied, spec.biases) == ("silu", False, ())


def test_biases_follow_their_flags() -> None:
    assert spec_of(mlp_bias=True).biases == ("gate", "up", "down")
    assert spec_of(attention_bias=True, mlp_bias=True).biases == ("q", "k", "v", "o", "gate", "up", "down")


def qwen2_of(**changes: Any) -> Architecture:
    return architecture_of(CONFIG | QWEN2 | changes)[1]


def test_qwen2_is_llama_with_three_biases() -> None:
    """Its configurations have no attention_bias, and name a window that is not used."""
    spec = qwen2_of(num_hidden_layers=2)
    expected = dataclasses.replace(spec_of(num_hidden_layers=2), family="qwen2", biases=("q", "k", "v"))
    assert spec == expected
    assert family_of(spec).layer_tensors(spec, 1) == llama.layer_tensors(expected, 1)
    assert not family_of(spec).ignores(spec, "lm_head.weight")
    assert family_of(spec).ignores(qwen2_of(tie_word_embeddings=True), "lm_head.weight")


def test_absent_fields_of_qwen2_take_its_defaults() -> None:
    sizes = {name: CONFIG[name] for name in ("vocab_size", "intermediate_size", "num_hidden_layers")}
    sizes |= {"model_type": "qwen2", "hidden_size": 512, "num_attention_heads": 64}
    spec = architecture_of(sizes)[1]
    assert (spec.kv_heads, spec.head_dim, spec.context, spec.norm_eps) == (32, 8, 32768, 1e-6)
    assert (spec.activation, spec.tied, spec.biases) == ("silu", False, ("q", "k", "v"))
    assert architecture_of(sizes | {"num_key_value_heads": None})[1].kv_heads == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": None},
        {"use_sliding_window": True, "sliding_window": None},
        {"use_sliding_window": True, "max_window_layers": 1},
        {"use_sliding_window": True, "layer_types": ["full_attention"]},
    ],
)
def test_a_window_that_no_layer_has_is_harmless(changes: dict[str, Any]) -> None:
    assert qwen2_of(**changes) == qwen2_of()


def test_defaults_of_a_used_window_are_qwen2s() -> None:
    """An absent window is 4096 positions wide, and begins at layer 28."""
    config = {name: value for name, value in (CONFIG | QWEN2).items() if name != "sliding_window"}
    config |= {"use_sliding_window": True, "max_window_layers": None}
    assert architecture_of(config | {"num_hidden_layers": 28})[1].layers == 28
    with pytest.raises(UnsupportedError, match="layers from 28 on"):
        architecture_of(config | {"num_hidden_layers": 29})


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": True},
        {"use_sliding_window": True, "max_window_layers": None, "num_hidden_layers": 29},
        {"layer_types": ["sliding_attention"]},
    ],
)
def test_a_window_that_is_used_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(
        UnsupportedError, match=r"^config\.json: (use_sliding_window|layer_types) is .*not computed"
    ):
        qwen2_of(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_sliding_window": "no"}, "use_sliding_window is 'no'; true or false"),
        ({"use_sliding_window": True, "layer_types": []}, r"layer_types is \[\]; a list of 1"),
        ({"use_sliding_window": True, "layer_types": 3}, "layer_types is 3; a list of 1"),
        ({"use_sliding_window": True, "max_window_layers": "all"}, "max_window_layers is 'all'; an integer"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2; a divisor"),
    ],
)
def test_wrong_fields_of_qwen2_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^config\.json: {says}"):
        qwen2_of(**changes)


@pytest.mark.parametrize(("name", "ours"), llama.ACTIVATIONS.items())
def test_activations_have_one_name(name: str, ours: str) -> None:
    assert spec_of(hidden_act=name).activation == ours


@given(tiny.configs())
def test_specs_survive_json(config: dict[str, Any]) -> None:
    spec = architecture_of(config)[1]
    assert Architecture.from_dict(json.loads(spec.to_json())) == spec
    assert family_of(spec) is architecture_of(config)[0]


def test_tensors_of_a_layer() -> None:
    spec = spec_of(num_key_value_heads=1, attention_bias=True, mlp_bias=True)
    found = llama.layer_tensors(spec, 0)
    shapes = {
        name: (tensor.name.removeprefix("model.layers.0."), tensor.shape) for name, tensor in found.items()
    }
    assert shapes == {
        "norm.attn": ("input_layernorm.weight", (72,)),
        "norm.ffn": ("post_attention_layernorm.weight", (72,)),
        "q": ("self_attn.q_proj.weight", (72, 72)),
        "k": ("self_attn.k_proj.weight", (24, 72)),
        "v": ("self_attn.v_proj.weight", (24, 72)),
        "o": ("self_attn.o_proj.weight", (72, 72)),
        "gate": ("mlp.gate_proj.weight", (100, 72)),
        "up": ("mlp.up_proj.weight", (100, 72)),
        "down": ("mlp.down_proj.weight", (72, 100)),
        "bias.q": ("self_attn.q_proj.bias", (72,)),
        "bias.k": ("self_attn.k_proj.bias", (24,)),
        "bias.v": ("self_attn.v_proj.bias", (24,)),
        "bias.o": ("self_attn.o_proj.bias", (72,)),
        "bias.gate": ("mlp.gate_proj.bias", (100,)),
        "bias.up": ("mlp.up_proj.bias", (100,)),
        "bias.down": ("mlp.down_proj.bias", (72,)),
    }
    assert [name for name, tensor in found.items() if tensor.columns] == ["o", "down"]


def test_a_tied_head_is_no_tensor() -> None:
    assert "head" in llama.outer_tensors(spec_of())
    tied = spec_of(tie_word_embeddings=True)
    assert "head" not in llama.outer_tensors(tied)
    assert llama.ignores(tied, "lm_head.weight")
    assert not llama.ignores(spec_of(), "lm_head.weight")


def test_only_buffers_are_ignored() -> None:
    spec = spec_of()
    assert llama.ignores(spec, "model.layers.11.self_attn.rotary_emb.inv_freq")
    assert not llama.ignores(spec, "model.layers.11.self_attn.q_norm.weight")
    assert not any(llama.ignores(spec, tensor.name) for _, tensor in tensors(spec))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "'MistralForCausalLM'.*supported are: LlamaForCausalLM"),
        ({"architectures": None, "model_type": "gpt2"}, "'gpt2'.*supported are: LlamaForCausalLM"),
        ({"model_type": "mllama"}, "model_type 'mllama'"),
        ({"model_type": "qwen2"}, "model_type 'qwen2' is not supported for LlamaForCausalLM"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "already quantised with gptq"),
        ({"compression_config": {"format": "pack-quantized"}}, "already quantised.*compression_config"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "already quantised.*quantization"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'.*gelu_new.*silu"),
        ({"sliding_window": 4096}, "sliding_window is 4096"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types is"),
        ({"layer_types": ["sliding_attention"]}, "layer_types is"),
        ({"layer_types": 3}, "layer_types is 3"),
        ({"is_causal": False}, "is_causal is False"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"^config\.json: .*{says}"):
        spec_of(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "sliding_window": None,
            "num_local_experts": 0,
            "layer_types": ["full_attention"],
            "pretraining_tp": 2,
        },
        {"quantization_config": None, "attn_logit_softcapping": None, "partial_rotary_factor": 1.0},
    ],
)
def test_harmless_fields_change_nothing(changes: dict[str, Any]) -> None:
    assert spec_of(**changes) == spec_of()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": None, "model_type": None}, "neither architectures nor model_type"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM'; a list of names"),
        ({"hidden_size": None}, "hidden_size is missing; a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; a positive integer"),
        ({"vocab_size": True}, "vocab_size is True; a positive integer"),
        ({"intermediate_size": "100"}, "intermediate_size is '100'"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'; a number"),
        ({"rms_norm_eps": -1.0}, r"rms_norm_eps is -1\.0"),
        ({"hidden_act": 5}, "hidden_act is 5; a text"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; true or false"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2; a divisor of num_attention_heads"),
        ({"head_dim": None, "hidden_size": 71}, "hidden_size is 71; a multiple of num_attention_heads"),
        ({"head_dim": 7}, "head_dim is 7; an even"),
        ({"head_dim": None, "hidden_size": 9}, "hidden_size is 9; an even head_dim"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]; an object"),
    ],
)
def test_wrong_fields_are_named_with_their_file(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^model/config\.json: {says}"):
        architecture_of(CONFIG | changes, "model/config.json")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": 1 << 25}, "layers is"),
        ({"hidden": 72.0}, r"hidden is 72\.0"),
        ({"heads": 4}, "heads is 4, no multiple of kv_heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"norm_eps": float("inf")}, "norm_eps is inf"),
        ({"tied": 1}, "tied is 1"),
        ({"activation": "mish"}, "activation is 'mish'"),
        ({"biases": ["embed"]}, "biases names 'embed'"),
        ({"biases": "q"}, "biases must be a list"),
        ({"gated": False, "biases": ["gate"]}, "biases names 'gate'"),
        ({"new": 1}, "unknown fields new"),
    ],
)
def test_wrong_specs_are_store_errors(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(StoreError, match=f"^architecture.*{says}"):
        Architecture.from_dict(spec_of().to_dict() | changes)


@pytest.mark.parametrize("fields", [{}, {"family": "llama"}])
def test_missing_fields_are_a_store_error(fields: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=r"^architecture lacks "):
        Architecture.from_dict(fields)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_layout": "pairs"},
        {"moe": {"experts": 8}},
        {"sliding_window": 4096},
        {"qk_norm": True},
        {"soft_cap": 30.0},
        {"partial_rope": 0.5},
        {"parallel_blocks": True},
        {"alibi": True},
    ],
)
def test_specs_name_what_is_not_built(changes: dict[str, Any]) -> None:
    values = json.loads(json.dumps(spec_of().to_dict() | changes))
    with pytest.raises(UnsupportedError, match=rf"^architecture\.{next(iter(changes))} asks"):
        Architecture.from_dict(values)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"family 'falcon'.*LlamaForCausalLM"):
        family_of(dataclasses.replace(spec_of(), family="falcon"))
