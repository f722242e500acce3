"""The model families this version computes; everything else is refused here, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from m2cache_rs.errors import CheckpointError, UnsupportedError
from m2cache_rs.models import llama, qwen2
from m2cache_rs.models.fields import Fields
from m2cache_rs.models.spec import Architecture
from m2cache_rs.models.tensors import Tensor

__all__ = ["FAMILIES", "Architecture", "Family", "Tensor", "architecture_of", "family_of"]


class Family(Protocol):
    """What a family's file provides (a module is one)."""

    NAME: str

    def architecture(self, config: Fields) -> Architecture:
        """The spec of a configuration."""

    def layer_tensors(self, spec: Architecture, layer: int) -> dict[str, Tensor]:
        """Where a layer's matrices and vectors lie, by our names."""

    def outer_tensors(self, spec: Architecture) -> dict[str, Tensor]:
        """Where embedding, final norm and head lie, by our names."""

    def ignores(self, spec: Architecture, name: str) -> bool:
        """Whether a checkpoint's tensor may be left out without changing the model."""


FAMILIES: dict[str, tuple[str, Family]] = {
    "LlamaForCausalLM": ("llama", llama),
    "Qwen2ForCausalLM": ("qwen2", qwen2),
}
"""Architecture name of transformers -> (its model_type, the family's rules)."""

_QUANTISED = ("quantization_config", "compression_config", "quantization", "quant_config")


def architecture_of(config: Mapping[str, Any], file: str = "config.json") -> tuple[Family, Architecture]:
    """The family and spec of a Hugging Face configuration (the parsed config.json, `file` in errors).

    Raises `UnsupportedError` for any other architecture and for checkpoints that are already quantised,
    `CheckpointError` for a missing or wrong field.
    """
    _refuse_quantised(config, file)
    family = FAMILIES[_architecture_name(config, file)][1]
    return family, family.architecture(Fields(config, file))


def family_of(spec: Architecture) -> Family:
    """The family that a spec names. Raises `UnsupportedError`."""
    for _, family in FAMILIES.values():
        if spec.family == family.NAME:
            return family
    raise UnsupportedError(f"model family {spec.family!r} is not supported; {_supported()}")


def _architecture_name(config: Mapping[str, Any], file: str) -> str:
    fields = Fields(config, file)
    kind = fields.text("model_type", "")
    names = config.get("architectures") or [name for name, (known, _) in FAMILIES.items() if known == kind]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fields.wrong("architectures", "a list of names")
    if not names and not kind:
        raise CheckpointError(f"{file}: neither architectures nor model_type says what the model is")
    name = names[0] if names else kind
    if name not in FAMILIES:
        raise UnsupportedError(f"{file}: architecture {name!r} is not supported; {_supported()}")
    if kind not in ("", FAMILIES[name][0]):
        raise UnsupportedError(f"{file}: model_type {kind!r} is not supported for {name}; {_supported()}")
    return name


def _supported() -> str:
    known = (f"{name} (model_type {kind})" for name, (kind, _) in FAMILIES.items())
    return f"supported are: {', '.join(known)}"


def _refuse_quantised(config: Mapping[str, Any], file: str) -> None:
    for name in _QUANTISED:
        value = config.get(name)
        if value:
            method = value.get("quant_method") if isinstance(value, Mapping) else None
            kind = f" with {method}" if isinstance(method, str) else ""
            raise UnsupportedError(
                f"{file}: the checkpoint is already quantised{kind} ({name}); convert its original"
            )
