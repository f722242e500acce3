"""Sums of float32 products: as fast as numpy makes them, or in the order that the CPU kernels promise.

With int8 activations the order is no detail. A value between two steps rounds either way by the last bit of
the sums before it, and all that follows sees a whole step of difference: on 500 tokens of tale-silu, two
references that differ in their order alone are a mean KL of 1.4e-5 apart.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F32 = np.float32
LANES = 16
SMALLEST = 2.0**-126  # of normal float32 numbers: below it lie fewer bits than 24
SPAN = 64  # positions between two looks at the largest score
STRETCH = 512  # positions whose sums are made apart from all others


class Sums(Protocol):
    """The sums of a forward pass. Shapes: a [..., N, d], b [..., M, d], c [..., M, d], w [..., N, M]."""

    def products(self, a: Array, b: Array) -> Array:
        """Dots of the rows of a and b: [..., N, M]."""

    def squares(self, a: Array) -> Array:
        """Dots of the rows of a with themselves: [..., N, 1]."""

    def attend(self, q: Array, k: Array, v: Array, scale: np.float32) -> Array:
        """Causal attention of every row of q over the rows of k and v up to its own: all [heads, N, d]."""

    def chunked(self, w: Array, c: Array, chunk: int, start: Array) -> Array:
        """`start` plus the mixes of runs of `chunk` rows of c."""

    def mix(self, w: Array, c: Array, start: Array) -> Array:
        """`start` plus the rows of c by their weights."""


class Fast:
    """By matrix products, in whatever order they sum."""

    def products(self, a: Array, b: Array) -> Array:
        return a @ np.swapaxes(b, -1, -2)

    def squares(self, a: Array) -> Array:
        return np.sum(a * a, axis=-1, keepdims=True)

    def attend(self, q: Array, k: Array, v: Array, scale: np.float32) -> Array:
        scores = np.where(np.tri(q.shape[1], dtype=bool), self.products(q, k) * scale, F32(-np.inf))
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return (powers / powers.sum(axis=-1, keepdims=True)) @ v

    def chunked(self, w: Array, c: Array, chunk: int, start: Array) -> Array:
        return self.mix(w, c, start)

    def mix(self, w: Array, c: Array, start: Array) -> Array:
        return start + w @ c


class Ordered:
    """As the kernels' documentation states it: products rounded before they are added, then these orders."""

    def products(self, a: Array, b: Array) -> Array:
        a, b = _padded(a)[..., :, None, :], _padded(b)[..., None, :, :]
        steps = range(0, a.shape[-1], LANES)
        return fold(sum((a[..., i : i + LANES] * b[..., i : i + LANES] for i in steps), F32(0)))

    def squares(self, a: Array) -> Array:
        a = _padded(a)
        return fold(sum((a[..., i : i + LANES] ** 2 for i in range(0, a.shape[-1], LANES)), F32(0)))[
            ..., None
        ]

    def attend(self, q: Array, k: Array, v: Array, scale: np.float32) -> Array:
        """Stretches of 512 positions apart, joined in order."""
        heads, count, d = q.shape
        most = np.full((heads, count, 1), np.finfo(F32).min)
        lanes, out = np.zeros((heads, count, LANES), F32), np.zeros((heads, count, d), F32)
        for first in range(0, count, STRETCH):
            rows, last = slice(first, count), first + STRETCH
            higher, *sums = self._stretch(q[:, rows], k[:, first:last], v[:, first:last], scale)
            larger = np.maximum(most[:, rows], higher)
            before, now = exp(most[:, rows] - larger), exp(higher - larger)
            most[:, rows] = larger
            for so_far, more in zip((lanes, out), sums, strict=True):
                so_far[:, rows] = so_far[:, rows] * before + more * now
        return out / fold(lanes)[..., None]

    def _stretch(self, q: Array, k: Array, v: Array, scale: np.float32) -> tuple[Array, Array, Array]:
        """Maxima, lanes and outputs: span by span, with a running maximum; products and sums fused."""
        heads, count, d = q.shape
        most = np.full((heads, count, 1), np.finfo(F32).min)
        lanes, out = np.zeros((heads, count, LANES), F32), np.zeros((heads, count, d), F32)
        for first in range(0, k.shape[1], SPAN):
            rows, span = slice(first, count), slice(first, first + SPAN)
            scores = _fused_products(q[:, rows], k[:, span]) * scale
            scores = np.where(np.tri(*scores.shape[1:], dtype=bool), scores, F32(-np.inf))
            before = most[:, rows].copy()
            most[:, rows] = np.maximum(before, scores.max(-1, keepdims=True))
            decay = exp(before - most[:, rows])
            weights = exp(scores - most[:, rows])
            lanes[:, rows] *= decay
            out[:, rows] *= decay
            for i in range(weights.shape[-1]):
                weight = weights[..., i, None]
                lanes[:, rows, i % LANES] += weight[..., 0]
                out[:, rows] = fma(weight, v[:, None, first + i], out[:, rows])
        return most, lanes, out

    def mix(self, w: Array, c: Array, start: Array) -> Array:
        """By rising row."""
        for i in range(w.shape[-1]):
            start = start + w[..., i, None] * c[..., None, i, :]
        return start

    def chunked(self, w: Array, c: Array, chunk: int, start: Array) -> Array:
        result = np.broadcast_to(start, (len(w), c.shape[1])).astype(F32)
        for i in range(0, len(c), chunk):
            result = result + self.mix(w[:, i : i + chunk], c[i : i + chunk], np.zeros_like(result))
        return result


def fma(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded once: a double that its own rounding put halfway between two is first moved back."""
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)  # exact
    total = product + c
    halfway = ((total.view(np.int64) & 0x1FFFFFFF) == 0x10000000) | (np.abs(total) < SMALLEST)
    if halfway.any():
        total = np.where(halfway & np.isfinite(total), _odd(product, np.asarray(c, np.float64), total), total)
    return total.astype(F32)


def _odd(product: Array, c: Array, total: Array) -> Array:
    """The total, made odd as the error points where the double had to round it."""
    # Knuth's two-sum: what rounding to double lost.
    shift = total - product
    lost = (product - (total - shift)) + (c - shift)
    nudged = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    even = (total.view(np.int64) & 1) == 0
    return np.where((lost != 0) & even, nudged, total)


def _fused_products(a: Array, b: Array) -> Array:
    a, b = _padded(a)[..., :, None, :], _padded(b)[..., None, :, :]
    lanes = np.zeros(LANES, F32)
    for i in range(0, a.shape[-1], LANES):
        lanes = fma(a[..., i : i + LANES], b[..., i : i + LANES], lanes)
    return fold(lanes)


def exp(x: Array) -> Array:
    """The kernels' e^x in their own operations (a Rust test holds them to the exact value)."""
    round_off, high, low = F32(1.5 * 2**23), F32(0.6933594), F32(-2.1219444e-4)
    x = np.clip(x, F32(-104), F32(89))
    shifted = fma(x, F32(math.log2(math.e)), round_off)
    n = shifted - round_off
    r = fma(n, -low, fma(n, -high, x))
    series = np.asarray(F32(1 / 5040))
    for factor in (F32(1 / 720), F32(1 / 120), F32(1 / 24), F32(1 / 6), F32(0.5)):
        series = fma(series, r, factor)
    whole = shifted.view(np.int32) - round_off.view(np.int32)
    half = whole >> 1
    with np.errstate(over="ignore"):  # beyond the largest number e^x is infinite
        return (F32(1) + fma(r * r, series, r)) * power_of_two(half) * power_of_two(whole - half)


def power_of_two(n: NDArray[np.int32]) -> Array:
    return ((n + 127) << 23).view(F32)


def fold(lanes: Array) -> Array:
    """Sums 16 lanes on the last axis by the tree 8, 4, 2, 1."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def _padded(a: Array) -> Array:
    return np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, -a.shape[-1] % LANES)])
