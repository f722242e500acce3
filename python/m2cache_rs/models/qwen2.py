"""Qwen2ForCausalLM (Qwen1.5, Qwen2, Qwen2.5): Llama's decoder and tensors, biases of q, k and v alone."""

from __future__ import annotations

import dataclasses

from m2cache_rs.errors import UnsupportedError
from m2cache_rs.models import llama
from m2cache_rs.models.fields import Fields
from m2cache_rs.models.llama import ignores, layer_tensors, outer_tensors
from m2cache_rs.models.spec import Architecture

__all__ = ["NAME", "architecture", "ignores", "layer_tensors", "outer_tensors"]

NAME = "qwen2"

_CLASS = llama.Class(NAME, "Qwen2ForCausalLM", lambda _: ("q", "k", "v"), context=32768, kv_heads=32)
_WINDOW = "sliding_window"
_FIRST = 28
"""Qwen2Config's max_window_layers: the first layer with a window, where a window is used at all."""


def architecture(config: Fields) -> Architecture:
    """The spec of a configuration written by transformers 4 or 5; absent fields take Qwen2Config's defaults.

    Raises `CheckpointError` for a missing or wrong field, `UnsupportedError` for what is not computed.
    """
    _refuse_windows(config)
    values = {name: value for name, value in config.values.items() if name != _WINDOW}
    return llama.spec_of(dataclasses.replace(config, values=values), _CLASS)


def _refuse_windows(config: Fields) -> None:
    """A window that is named counts only with `use_sliding_window`, and with a layer that has it."""
    if not config.flag("use_sliding_window", False) or config.values.get(_WINDOW, 0) is None:
        return
    first = config.values.get("max_window_layers")
    first = _FIRST if first is None else first
    if type(first) is not int or first < 0:
        raise config.wrong("max_window_layers", "an integer that is not negative")
    layers, kinds = config.integer("num_hidden_layers"), config.values.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or len(kinds) != layers):
        raise config.wrong("layer_types", f"a list of {layers}")
    if kinds is None and first < layers:
        raise UnsupportedError(
            f"{config.file}: use_sliding_window is true for layers from {first} on; not computed"
        )
