"""LlamaForCausalLM: its Hugging Face configuration as an architecture spec, and where its tensors lie."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from m2cache_rs.errors import CheckpointError, UnsupportedError
from m2cache_rs.models import rope
from m2cache_rs.models.fields import Fields
from m2cache_rs.models.spec import Architecture
from m2cache_rs.models.tensors import Tensor

NAME = "llama"

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "relu2": "relu2",
    "relu6": "relu6",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
}
"""transformers' names of hidden_act to ours. The five tanh variants are one formula, rounded in different
orders (gelu_fast writes sqrt(2/pi) with ten digits, which is finer than float32)."""

_SCALED = ("llama3", "yarn", "longrope")

_FIELDS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "ffn": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
}
"""Our names of what a configuration calls otherwise."""

_MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}

_IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|model\.rotary_emb\.inv_freq")


def _differs(*harmless: Any) -> Callable[[Any], bool]:
    return lambda value: value not in harmless


def _other_layers(kinds: Any) -> bool:
    if kinds is None:
        return False
    return not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)


_UNBUILT: dict[str, Callable[[Any], bool]] = {
    "sliding_window": _differs(None, 0, False),
    "layer_types": _other_layers,
    "is_causal": _differs(None, True),
    "num_local_experts": _differs(None, 0),
    "num_experts": _differs(None, 0),
    "n_routed_experts": _differs(None, 0),
    "qk_norm": _differs(None, False),
    "use_qk_norm": _differs(None, False),
    "clip_qkv": _differs(None),
    "alibi": _differs(None, False),
    "use_parallel_residual": _differs(None, False),
    "no_rope_layers": _differs(None, []),
    "rope_interleaved": _differs(None, False),
    "attn_logit_softcapping": _differs(None),
    "final_logit_softcapping": _differs(None),
    "embedding_multiplier": _differs(None, 1),
    "residual_multiplier": _differs(None, 1),
    "attention_multiplier": _differs(None),
    "logits_scaling": _differs(None, 1),
    "logit_scale": _differs(None, 1),
}
"""Fields with which checkpoints ask for what no class of this family computes, and when they really ask."""


@dataclass(frozen=True)
class Class:
    """What a class of transformers of this family has of its own: name, biases, defaults of absent fields.

    `kv_heads` None: as many as heads.
    """

    family: str
    name: str
    biases: Callable[[Fields], tuple[str, ...]]
    context: int
    kv_heads: int | None = None


def architecture(config: Fields) -> Architecture:
    """The spec of a configuration written by transformers 4 or 5; absent fields take LlamaConfig's defaults.

    Raises `CheckpointError` for a missing or wrong field, `UnsupportedError` for what is not computed.
    """
    return spec_of(config, LLAMA)


def spec_of(config: Fields, kind: Class) -> Architecture:
    """As `architecture`, for a class whose decoder is Llama's."""
    _refuse_unbuilt(config, kind)
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    head_dim = config.integer("head_dim") if config.has("head_dim") else _head_dim(config, hidden, heads)
    spec = Architecture(
        family=kind.family,
        layers=config.integer("num_hidden_layers"),
        hidden=hidden,
        ffn=config.integer("intermediate_size"),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", _kv_heads(config, kind, heads)),
        head_dim=head_dim,
        vocab=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings", kind.context),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        activation=_activation(config),
        gated=True,
        tied=config.flag("tie_word_embeddings", False),
        biases=kind.biases(config),
        attention_scale=head_dim**-0.5,
        rope=_rope(config, head_dim, kind),
    )
    _check_heads(config, spec)
    return spec


def layer_tensors(spec: Architecture, layer: int) -> dict[str, Tensor]:
    """Where a layer's matrices ('q' ... 'down') and vectors ('norm.attn', 'norm.ffn', 'bias.q' ...) lie."""
    base = f"model.layers.{layer}."
    found = {
        "norm.attn": Tensor(f"{base}input_layernorm.weight", (spec.hidden,)),
        "norm.ffn": Tensor(f"{base}post_attention_layernorm.weight", (spec.hidden,)),
    }
    for name in spec.layer_matrices:
        columns, records = name in ("o", "down"), spec.records(name)
        shape = (spec.hidden, records) if columns else (records, spec.hidden)
        found[name] = Tensor(f"{base}{_MODULES[name]}.weight", shape, columns)
    for name in spec.biases:
        found[f"bias.{name}"] = Tensor(f"{base}{_MODULES[name]}.bias", (spec.bias_length(name),))
    return found


def outer_tensors(spec: Architecture) -> dict[str, Tensor]:
    """Where 'embed', 'norm.final' and, unless it is tied, 'head' lie."""
    found = {
        "norm.final": Tensor("model.norm.weight", (spec.hidden,)),
        "embed": Tensor("model.embed_tokens.weight", (spec.vocab, spec.hidden)),
    }
    if not spec.tied:
        found["head"] = Tensor("lm_head.weight", (spec.vocab, spec.hidden))
    return found


def ignores(spec: Architecture, name: str) -> bool:
    """Whether a checkpoint's tensor carries nothing: old rope buffers, and the head of a tied model."""
    return bool(_IGNORED.fullmatch(name)) or (spec.tied and name == "lm_head.weight")


def _head_dim(config: Fields, hidden: int, heads: int) -> int:
    if hidden % heads:
        raise config.wrong("hidden_size", f"a multiple of num_attention_heads ({heads}), or a head_dim,")
    return hidden // heads


def _kv_heads(config: Fields, kind: Class, heads: int) -> int:
    """transformers takes null for as many as heads, whatever the class's default is."""
    return heads if kind.kv_heads is None or "num_key_value_heads" in config.values else kind.kv_heads


def _check_heads(config: Fields, spec: Architecture) -> None:
    if spec.heads % spec.kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({spec.heads})")
    if spec.head_dim % 2:
        name = "head_dim" if config.has("head_dim") else "hidden_size"
        raise config.wrong(name, f"an even head_dim (it is {spec.head_dim})")
    if spec.norm_eps < 0:
        raise config.wrong("rms_norm_eps", "a number that is not negative")
    spec.validate(CheckpointError, f"{config.file}: ", _FIELDS)


def _activation(config: Fields) -> str:
    name = config.text("hidden_act", "silu")
    if name not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise UnsupportedError(f"{config.file}: hidden_act {name!r} is not supported; these are: {known}")
    return ACTIVATIONS[name]


def _biases(config: Fields) -> tuple[str, ...]:
    attention = ("q", "k", "v", "o") if config.flag("attention_bias", False) else ()
    return attention + (("gate", "up", "down") if config.flag("mlp_bias", False) else ())


def _rope(config: Fields, head_dim: int, kind: Class) -> dict[str, Any]:
    """Rope parameters: `rope_parameters` by transformers 5, `rope_scaling` and `rope_theta` by 4.

    Precedence is transformers': rope_scaling over rope_parameters, a parameter in there over one at the top,
    except that original_max_position_embeddings at the top wins; max_position_embeddings stands in for it.
    """
    name = "rope_scaling" if config.values.get("rope_scaling") else "rope_parameters"
    section = config.section(name)
    if any(isinstance(value, dict) for value in section.values.values()) or section.has("mrope_section"):
        raise UnsupportedError(
            f"{config.file}: {name} asks for several rotary embeddings; {kind.name} has one"
        )
    form = section.text("rope_type", section.text("type", "default"))
    theta = section if section.has("rope_theta") else config
    values = {**section.values, "type": form, "theta": theta.positive("rope_theta", 10000.0)}
    if form in _SCALED:
        values["original_max_position_embeddings"] = _original(config, section, kind.context)
    _refuse_partial(config, section, form)
    return rope.checked(values, head_dim, config.file, CheckpointError, f"{name}.")


def _original(config: Fields, section: Fields, default: int) -> int:
    name = "original_max_position_embeddings"
    source = config if config.has(name) or not section.has(name) else section
    return source.integer(name, config.integer("max_position_embeddings", default))


def _refuse_partial(config: Fields, section: Fields, form: str) -> None:
    name = "partial_rotary_factor"
    share = (section if section.has(name) else config).number(name, 1.0)
    if share != 1.0 and form != "proportional":
        raise UnsupportedError(f"{config.file}: {name} is {share:g}; only whole heads (1.0) are computed")


def _refuse_unbuilt(config: Fields, kind: Class) -> None:
    for name, asks in _UNBUILT.items():
        if name in config.values and asks(config.values[name]):
            value = config.values[name]
            raise UnsupportedError(f"{config.file}: {name} is {value!r}; not computed for {kind.name}")


LLAMA = Class(NAME, "LlamaForCausalLM", _biases, context=2048)
