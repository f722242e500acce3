"""Which query heads a token has: those that a linear guess at their worth ranks highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.reference import numbers, sparse
from tests.reference.sums import Ordered

Array = NDArray[Any]
BITS = 8


@dataclass(frozen=True)
class Heads:
    """Counts, one or each layer's; weights [heads, hidden] and bias [heads] by layer."""

    top: Sequence[int]
    lines: Mapping[int, tuple[Array, Array]]
    int8: bool = True

    def scores(self, layer: int, x: Array) -> Array:
        """Of normed rows x, [N, heads]; the weights are kept at 8 bits."""
        weight, bias = self.lines[layer]
        coded = numbers.encode(weight, "symmetric", 64)
        if self.int8:
            return numbers.dot(coded, BITS, x) + bias
        return Ordered().products(x, numbers.decode(coded, BITS)) + bias

    def used(self, layer: int, x: Array) -> NDArray[np.bool_]:
        """[N, heads]."""
        top = self.top[layer if len(self.top) > 1 else 0]
        return np.asarray(sparse.places(self.scores(layer, x)) < top)
