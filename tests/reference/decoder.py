"""The reference decoder: a whole forward pass in float32 numpy, on one screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from m2cache_rs.models.rope import inverse_frequencies
from m2cache_rs.models.spec import Architecture
from numpy.typing import NDArray

from tests.reference import sparse
from tests.reference.heads import Heads
from tests.reference.sums import Sums, exp

Array = NDArray[np.float32]
F32 = np.float32


CHUNK = 256  # neurons that `down` sums before it adds them to the rest


class Weights(Protocol):
    """What the decoder reads; names are '0.q', '0.norm.attn', '0.bias.q', 'embed', 'norm.final', 'head'."""

    sums: Sums

    def vector(self, name: str) -> Array: ...

    def rows(self, name: str, ids: Any) -> Array: ...

    def dot(self, name: str, x: Array, bits: int | None = None) -> Array:
        """x [N, hidden] with every record, at the level of its part or another: [N, records]."""

    def accumulate(self, name: str, x: Array, chunk: int, start: Array) -> Array:
        """`start` plus the records weighted by x [N, records], chunk by chunk: [N, hidden]."""

    def accumulate_bands(self, name: str, x: Mapping[int, Array], chunk: int, start: Array) -> Array:
        """The same with every level's own x, in portions of levels 16, 8 and 4."""


def forward(
    arch: Architecture,
    weights: Weights,
    ids: Any,
    length: int | None = None,
    kv: str = "f32",
    chosen: sparse.Recipe | None = None,
    heads: Heads | None = None,
) -> Array:
    """Logits [len(ids), vocab] of one sequence from position 0; `length` (default: all) sets the rope.

    `kv`: keys (turned) and values are kept as f32 or rounded to f16. `chosen`: which neurons are computed;
    `heads`: which query heads.
    """
    x = weights.rows("embed", np.asarray(ids))
    turn = rotation(arch, len(ids), length or len(ids))
    for layer in range(arch.layers):
        normed = norm(arch, weights, x, f"{layer}.norm.attn")
        used = None if heads is None else heads.used(layer, normed)
        x = x + attention(arch, weights, layer, normed, turn, kv, used)
        normed = norm(arch, weights, x, f"{layer}.norm.ffn")
        x = x + (ffn if chosen is None else partial(sparse_ffn, chosen))(arch, weights, layer, normed)
    return weights.dot("embed" if arch.tied else "head", norm(arch, weights, x, "norm.final"))


def attention(
    arch: Architecture,
    weights: Weights,
    layer: int,
    x: Array,
    turn: tuple[Array, Array],
    kv: str = "f32",
    used: NDArray[np.bool_] | None = None,
) -> Array:
    """What attention adds for normed rows x; `used` [N, heads]: the query heads of each (None: all)."""

    def heads(name: str) -> Array:
        y = weights.dot(f"{layer}.{name}", x) + bias(arch, weights, layer, name)
        return y.reshape(len(x), -1, arch.head_dim).transpose(1, 0, 2)

    share = arch.heads // arch.kv_heads
    q, k = rotate(heads("q"), turn), np.repeat(kept(rotate(heads("k"), turn), kv), share, axis=0)
    v = np.repeat(kept(heads("v"), kv), share, axis=0)
    mixed = weights.sums.attend(q, k, v, F32(arch.attention_scale)).transpose(1, 0, 2)
    if used is not None:
        mixed = np.where(used[..., None], mixed, F32(0))
    flat = np.ascontiguousarray(mixed).reshape(len(x), -1)
    return weights.accumulate(f"{layer}.o", flat, share * arch.head_dim, bias(arch, weights, layer, "o"))


def kept(x: Array, kv: str) -> Array:
    """What a cache of that kind gives back; numpy rounds to nearest even."""
    return x.astype({"f16": np.float16, "f32": F32}[kv]).astype(F32)


def ffn(arch: Architecture, weights: Weights, layer: int, x: Array) -> Array:
    h = neurons(arch, weights, layer, x)
    return weights.accumulate(f"{layer}.down", h, CHUNK, bias(arch, weights, layer, "down"))


def sparse_ffn(chosen: sparse.Recipe, arch: Architecture, weights: Weights, layer: int, x: Array) -> Array:
    hidden = cache(lambda bits: neurons(arch, weights, layer, x, bits))
    level = chosen.levels(layer, hidden, x, ACTIVATIONS[arch.activation])
    h = sparse.bands(level, hidden)
    return weights.accumulate_bands(f"{layer}.down", h, CHUNK, bias(arch, weights, layer, "down"))


def neurons(arch: Architecture, weights: Weights, layer: int, x: Array, bits: int | None = None) -> Array:
    """What every neuron gives, [N, ffn], before it meets its record of `down`."""
    act = ACTIVATIONS[arch.activation]
    h = weights.dot(f"{layer}.up", x, bits) + bias(arch, weights, layer, "up")
    if not arch.gated:
        return act(h)
    return act(weights.dot(f"{layer}.gate", x, bits) + bias(arch, weights, layer, "gate")) * h


def bias(arch: Architecture, weights: Weights, layer: int, name: str) -> Array:
    return weights.vector(f"{layer}.bias.{name}") if name in arch.biases else np.zeros(1, F32)


def norm(arch: Architecture, weights: Weights, x: Array, name: str) -> Array:
    mean = weights.sums.squares(x) / F32(arch.hidden)
    return x * (F32(1) / np.sqrt(mean + F32(arch.norm_eps))) * weights.vector(name)


def rotation(arch: Architecture, tokens: int, length: int) -> tuple[Array, Array]:
    frequencies, factor = inverse_frequencies(arch.rope, arch.head_dim, arch.context, length)
    angles = (np.arange(tokens, dtype=F32)[:, None] * frequencies).astype(np.float64)
    return np.cos(angles).astype(F32) * F32(factor), np.sin(angles).astype(F32) * F32(factor)


def rotate(x: Array, turn: tuple[Array, Array]) -> Array:
    (cos, sin), (a, b) = turn, np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def gelu_tanh(x: Array) -> Array:
    return F32(0.5) * x * (F32(1) + np.tanh(F32(math.sqrt(2 / math.pi)) * (x + F32(0.044715) * (x * x * x))))


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[F32])(x)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (F32(1) + exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "gelu": lambda x: F32(0.5) * x * (F32(1) + erf(x / F32(math.sqrt(2)))),
    "gelu_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * (F32(1) / (F32(1) + exp(F32(-1.702) * x))),
}
