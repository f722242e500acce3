"""The FFN of a recipe that computes some neurons only, each token alone: scores, sets, bands.

A recipe's FFN is the core's JSON (src/config/recipe.rs): {"selector": ..., "cuts": [...]}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.reference import numbers
from tests.reference.sums import Ordered

Array = NDArray[Any]
Hidden = Callable[[int], Array]
"""What all neurons give, [N, ffn], at a level."""

LEVELS = (16, 8, 4)
CHUNK = 256  # ranks whose sums are made apart


@dataclass(frozen=True)
class Factors:
    """A layer's predictor: down [r, hidden], up [ffn, r] or [2 ffn, r] (a head for the gate, one for up),
    bias and weight [ffn]; bits it is kept at."""

    down: Array
    up: Array
    bias: Array
    weight: Array
    bits: int

    def scores(self, x: Array, act: Callable[[Array], Array], int8: bool) -> Array:
        """|act(up . (down . x) + bias)| * weight of normed rows x; times what a second head gives."""
        start = np.concatenate([self.bias, np.zeros(len(self.up) - len(self.bias), np.float32)])
        outputs = self._mix(self.up.T, self._dot(self.down, x, int8), start, int8)
        gate, *up = np.split(outputs, len(self.up) // len(self.bias), axis=1)
        found = act(gate)
        return np.abs(found * up[0] if up else found) * self.weight

    def _mix(self, matrix: Array, x: Array, start: Array, int8: bool) -> Array:
        coded = numbers.encode(np.ascontiguousarray(matrix), "symmetric", 64)
        if int8:
            return numbers.accumulate(coded, self.bits, x, CHUNK, start)
        return Ordered().chunked(x, numbers.decode(coded, self.bits), CHUNK, start)

    def _dot(self, matrix: Array, x: Array, int8: bool) -> Array:
        coded = numbers.encode(matrix, "symmetric", 64)
        if int8:
            return numbers.dot(coded, self.bits, x)
        return Ordered().products(x, numbers.decode(coded, self.bits))


@dataclass(frozen=True)
class Recipe:
    """A selector and the cuts of its rankings, as the core's JSON has them; factors where it predicts."""

    selector: Any
    cuts: list[Any]
    factors: Mapping[int, Factors] | None = None
    int8: bool = True

    def levels(self, layer: int, hidden: Hidden, x: Array, act: Callable[[Array], Array]) -> Array:
        """The level of every neuron of a layer for normed rows x, [N, ffn]; 0 is off."""

        def predicted() -> Array:
            assert self.factors is not None
            return self.factors[layer].scores(x, act, self.int8)

        return levels(scores(self.selector, layer, hidden, predicted), of_layer(self.cuts, layer))


def scores(selector: Any, layer: int, hidden: Hidden, predicted: Callable[[], Array]) -> Array:
    """What a selector says of the neurons, [N, ffn]: the larger, the more important."""
    if selector == "lowrank":
        return predicted()
    if selector == "oracle":
        return np.abs(hidden(16))
    found = np.abs(hidden(4))
    if selector == "plane":
        return found
    count = of_layer(selector["cascade"], layer)
    return np.where(places(predicted()) < count, found, -np.inf)


def of_layer(given: list[Any], layer: int) -> Any:
    """A single one is every layer's."""
    return given[layer if len(given) > 1 else 0]


def places(found: Array) -> Array:
    """Where each neuron comes in its row's ranking: not a number first, then by score, ties by lower id."""
    unknown = np.isnan(found)
    order = np.lexsort((np.where(unknown, 0, -found), ~unknown), axis=-1)
    result = np.empty_like(order)
    np.put_along_axis(result, order, np.broadcast_to(np.arange(found.shape[1]), order.shape), axis=-1)
    return result


def levels(found: Array, cut: Mapping[str, Any]) -> Array:
    """The level of every neuron, [N, ffn], from its score; 0 is off. What scores -inf is never on."""
    place = places(found)
    if "top" in cut:
        reached = np.select([place < end for end in np.cumsum(cut["top"])], LEVELS, 0)
    else:
        above = cut["above"]
        thresholds = [np.inf if one is None else one for one in above["scores"]]
        known = [one is not None for one in above["scores"]]
        reaches = [
            yes & ((found >= one) | np.isnan(found)) for one, yes in zip(thresholds, known, strict=True)
        ]
        reached = np.where(place < above["most"], np.select(reaches, LEVELS, 0), 0)
    return np.where(found == -np.inf, 0, reached)


def bands(level: Array, hidden: Hidden) -> dict[int, Array]:
    """What the neurons of each band give; +0 where a token does not use them at that level."""
    return {bits: np.where(level == bits, hidden(bits), np.float32(0)) for bits in LEVELS}
