"""A checkpoint of random weights whose FFN is off but for a known share: ReLU behind biased gates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from m2cache_rs.convert import convert
from m2cache_rs.models import Architecture, Tensor, architecture_of, family_of
from numpy.typing import NDArray
from safetensors.numpy import save_file
from shape import Shape
from stand_in import tokenizer_json

from limits.tell import tell

_VOCABULARY = 512


def config_of(shape: Shape, layers: int) -> dict[str, Any]:
    """The shape's configuration with ReLU, biases in the FFN, fewer layers and a small vocabulary."""
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    kept = {name: value for name, value in shape.config.items() if name not in ends}
    return kept | {
        "hidden_act": "relu",
        "mlp_bias": True,
        "num_hidden_layers": layers,
        "vocab_size": _VOCABULARY,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    }


def make_store(config: Mapping[str, Any], active: float, folder: Path, seed: int = 0) -> Path:
    """The store (`gated`, all planes) of a checkpoint made for it, in `folder` unless it is there.

    Weights are Gaussian and norms 1, so a gate's dot has deviation 1 for any input, and a bias that `active`
    of these exceed leaves as many neurons on.
    """
    store = folder / f"{folder.name}-gated.m2c"
    if not store.exists():
        tell(f"making {store}: synthetic weights, of whose neurons {active:.0%} are on")
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        architecture = architecture_of(dict(config))[1]
        save_file(_weights(architecture, active, seed), checkpoint / "model.safetensors")
        (checkpoint / "config.json").write_text(json.dumps(config))
        (checkpoint / "tokenizer.json").write_bytes(tokenizer_json(architecture.vocab))
        convert(checkpoint, store, sections="gated")
        (checkpoint / "model.safetensors").unlink()
    return store


def _weights(architecture: Architecture, active: float, seed: int) -> dict[str, NDArray[np.float16]]:
    rng, family = np.random.default_rng(seed), family_of(architecture)
    bias = NormalDist().inv_cdf(active)

    def values(name: str, tensor: Tensor) -> NDArray[np.float16]:
        if len(tensor.shape) == 2:
            deviation = 1.0 if name == "embed" else tensor.shape[1] ** -0.5
            return (rng.standard_normal(tensor.shape, np.float32) * deviation).astype(np.float16)
        constant = 1.0 if name.startswith("norm") else bias if name == "bias.gate" else 0.0
        return np.full(tensor.shape, constant, np.float16)

    tensors = dict(family.outer_tensors(architecture))
    for layer in range(architecture.layers):
        named = family.layer_tensors(architecture, layer).items()
        tensors |= {f"{name}/{layer}": tensor for name, tensor in named}
    return {tensor.name: values(name.split("/")[0], tensor) for name, tensor in tensors.items()}
