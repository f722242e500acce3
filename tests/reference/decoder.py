"""The reference decoder: a whole forward pass in float32 numpy, on one screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from m2cache_rs.models.rope import inverse_frequencies
from m2cache_rs.models.spec import Architecture
from numpy.typing import NDArray

Array = NDArray[np.float32]
F32 = np.float32


class Weights(Protocol):
    """What the decoder reads; names are '0.q', '0.norm.attn', '0.bias.q', 'embed', 'norm.final', 'head'."""

    def vector(self, name: str) -> Array: ...

    def rows(self, name: str, ids: Any) -> Array: ...

    def dot(self, name: str, x: Array) -> Array:
        """x [N, hidden] with every record: [N, records]."""

    def accumulate(self, name: str, x: Array) -> Array:
        """The sum of records weighted by x [N, records]: [N, hidden]."""


def forward(arch: Architecture, weights: Weights, ids: Any, length: int | None = None) -> Array:
    """Logits [len(ids), vocab] of one sequence from position 0; `length` (default: all) sets the rope."""
    x = weights.rows("embed", np.asarray(ids))
    turn = rotation(arch, len(ids), length or len(ids))
    for layer in range(arch.layers):
        x = x + attention(
            arch, weights, layer, norm(x, weights.vector(f"{layer}.norm.attn"), arch.norm_eps), turn
        )
        x = x + ffn(arch, weights, layer, norm(x, weights.vector(f"{layer}.norm.ffn"), arch.norm_eps))
    return weights.dot("embed" if arch.tied else "head", norm(x, weights.vector("norm.final"), arch.norm_eps))


def attention(arch: Architecture, weights: Weights, layer: int, x: Array, turn: tuple[Array, Array]) -> Array:
    def heads(name: str) -> Array:
        y = weights.dot(f"{layer}.{name}", x) + bias(arch, weights, layer, name)
        return y.reshape(len(x), -1, arch.head_dim).transpose(1, 0, 2)

    share = arch.heads // arch.kv_heads
    q, k = rotate(heads("q"), turn), np.repeat(rotate(heads("k"), turn), share, axis=0)
    scores = q @ k.transpose(0, 2, 1) * F32(arch.attention_scale)
    mixed = softmax(np.where(np.tri(len(x), dtype=bool), scores, -np.inf)) @ np.repeat(
        heads("v"), share, axis=0
    )
    flat = np.ascontiguousarray(mixed.transpose(1, 0, 2)).reshape(len(x), -1)
    return weights.accumulate(f"{layer}.o", flat) + bias(arch, weights, layer, "o")


def ffn(arch: Architecture, weights: Weights, layer: int, x: Array) -> Array:
    act = ACTIVATIONS[arch.activation]
    up = weights.dot(f"{layer}.up", x) + bias(arch, weights, layer, "up")
    if arch.gated:
        h = act(weights.dot(f"{layer}.gate", x) + bias(arch, weights, layer, "gate")) * up
    else:
        h = act(up)
    return weights.accumulate(f"{layer}.down", h) + bias(arch, weights, layer, "down")


def bias(arch: Architecture, weights: Weights, layer: int, name: str) -> Array:
    return weights.vector(f"{layer}.bias.{name}") if name in arch.biases else np.zeros(1, F32)


def norm(x: Array, gain: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + F32(eps)) * gain


def rotation(arch: Architecture, tokens: int, length: int) -> tuple[Array, Array]:
    frequencies, factor = inverse_frequencies(arch.rope, arch.head_dim, arch.context, length)
    angles = np.arange(tokens, dtype=F32)[:, None] * frequencies
    return np.cos(angles) * F32(factor), np.sin(angles) * F32(factor)


def rotate(x: Array, turn: tuple[Array, Array]) -> Array:
    (cos, sin), (a, b) = turn, np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(x: Array) -> Array:
    return F32(1) / (F32(1) + np.exp(-np.clip(x, -80, None)))


def gelu_tanh(x: Array) -> Array:
    return F32(0.5) * x * (F32(1) + np.tanh(F32(math.sqrt(2 / math.pi)) * (x + F32(0.044715) * x**3)))


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[F32])(x)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "gelu": lambda x: F32(0.5) * x * (F32(1) + erf(x / F32(math.sqrt(2)))),
    "gelu_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * sigmoid(F32(1.702) * x),
}
