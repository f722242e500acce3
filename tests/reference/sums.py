"""Sums of float32 products: as fast as numpy makes them, or in the order that the CPU kernels promise.

With int8 activations the order is no detail. A value between two steps rounds either way by the last bit of
the sums before it, and all that follows sees a whole step of difference: on 500 tokens of tale-silu, two
references that differ in their order alone are a mean KL of 1.4e-5 apart.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F32 = np.float32
LANES = 16


class Sums(Protocol):
    """The sums of a forward pass. Shapes: a [..., N, d], b [..., M, d], c [..., M, d], w [..., N, M]."""

    def products(self, a: Array, b: Array) -> Array:
        """Dots of the rows of a and b: [..., N, M]."""

    def squares(self, a: Array) -> Array:
        """Dots of the rows of a with themselves: [..., N, 1]."""

    def total(self, w: Array) -> Array:
        """Sums of the rows of w: [..., N, 1]."""

    def mix(self, w: Array, c: Array) -> Array:
        """Sums of the rows of c weighted by w: [..., N, d]."""

    def chunked(self, w: Array, c: Array, chunk: int, start: Array) -> Array:
        """`start` plus the mixes of runs of `chunk` rows of c."""


class Fast:
    """By matrix products, in whatever order they sum."""

    def products(self, a: Array, b: Array) -> Array:
        return a @ np.swapaxes(b, -1, -2)

    def squares(self, a: Array) -> Array:
        return np.sum(a * a, axis=-1, keepdims=True)

    def total(self, w: Array) -> Array:
        return w.sum(axis=-1, keepdims=True)

    def mix(self, w: Array, c: Array) -> Array:
        return w @ c

    def chunked(self, w: Array, c: Array, chunk: int, start: Array) -> Array:
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

    def total(self, w: Array) -> Array:
        return np.add.accumulate(w, axis=-1)[..., -1:]

    def mix(self, w: Array, c: Array) -> Array:
        result = np.zeros((*w.shape[:-1], c.shape[-1]), F32)
        for i in range(w.shape[-1]):
            result += w[..., i, None] * c[..., None, i, :]
        return result

    def chunked(self, w: Array, c: Array, chunk: int, start: Array) -> Array:
        result = np.broadcast_to(start, (len(w), c.shape[1])).astype(F32)
        for i in range(0, len(c), chunk):
            result = result + self.mix(w[:, i : i + chunk], c[i : i + chunk])
        return result


def fold(lanes: Array) -> Array:
    """Sums 16 lanes on the last axis by the tree 8, 4, 2, 1."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def _padded(a: Array) -> Array:
    return np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, -a.shape[-1] % LANES)])
