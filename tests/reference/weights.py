"""Weights for the reference decoder: plain float32, or through the number format at a level per part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.reference import numbers
from tests.reference.sums import Fast, Sums

Array = NDArray[Any]
Named = Mapping[str, Array]
"""By name: matrices as records [records, hidden] (o and down by input channel), vectors, all float32."""

PARTS = {**dict.fromkeys("qkvo", "attn"), **dict.fromkeys(("gate", "up", "down"), "ffn")}


class Plain:
    """The float32 model itself."""

    def __init__(self, named: Named, sums: Sums | None = None) -> None:
        self.named = named
        self.sums = sums or Fast()

    def vector(self, name: str) -> Array:
        return self.named[name]

    def rows(self, name: str, ids: Array) -> Array:
        return self.named[name][ids]

    def dot(self, name: str, x: Array, bits: int | None = None) -> Array:
        return self.sums.products(x, self.named[name])

    def accumulate(self, name: str, x: Array, chunk: int, start: Array) -> Array:
        return self.sums.chunked(x, self.named[name], chunk, start)

    def accumulate_bands(self, name: str, x: Mapping[int, Array], chunk: int, start: Array) -> Array:
        """Every level's weights are the same."""
        return self.accumulate(name, sum(x.values(), np.float32(0)), chunk, start)


class Quantised(Plain):
    """The model as a store holds it: every matrix coded once, read at the level of its part.

    named: matrices are float32 and coded here, or coded already (`store.contents`), whatever form says.
    levels: bits of 'attn', 'ffn', 'head', 'embed'. int8: dots below 16 bits quantise their activations.
    """

    def __init__(
        self,
        named: Mapping[str, Array | numbers.Coded],
        levels: Mapping[str, int],
        int8: bool = True,
        form: str = "affine",
        group: int = 64,
        sums: Sums | None = None,
    ) -> None:
        vectors = {name: v for name, v in named.items() if isinstance(v, np.ndarray) and v.ndim == 1}
        super().__init__(vectors, sums)
        self.levels, self.int8 = levels, int8
        self.coded = {
            name: v if isinstance(v, numbers.Coded) else numbers.encode(v, form, group)
            for name, v in named.items()
            if name not in vectors
        }
        self.decoded: dict[tuple[str, int], Array] = {}

    def rows(self, name: str, ids: Array) -> Array:
        return self.values(name, self.levels["embed"])[ids]

    def dot(self, name: str, x: Array, bits: int | None = None) -> Array:
        bits = bits or self.levels[self.part(name)]
        if self.int8 and bits < 16:
            return numbers.dot(self.coded[name], bits, x)
        return self.sums.products(x, self.values(name, bits))

    def accumulate(self, name: str, x: Array, chunk: int, start: Array) -> Array:
        return self.accumulate_bands(name, {self.levels[self.part(name)]: x}, chunk, start)

    def accumulate_bands(self, name: str, x: Mapping[int, Array], chunk: int, start: Array) -> Array:
        """Chunks apart; in each the portions of levels 16, 8 and 4 one behind the other."""
        count, coded = len(next(iter(x.values()))), self.coded[name]
        result = np.broadcast_to(start, (count, coded.width)).astype(np.float32)
        for begin in range(0, len(coded.codes), chunk):
            part, records = np.zeros_like(result), slice(begin, min(begin + chunk, len(coded.codes)))
            for bits in sorted(x, reverse=True):
                part = self._portion(name, bits, x[bits], records, part)
            result = result + part
        return result

    def _portion(self, name: str, bits: int, x: Array, records: slice, part: Array) -> Array:
        if self.int8 and bits < 16:
            return numbers.add_exact(self.coded[name], bits, x, records, part)
        return self.sums.mix(x[:, records], self.values(name, bits)[records], part)

    def values(self, name: str, bits: int) -> Array:
        if (name, bits) not in self.decoded:
            self.decoded[name, bits] = numbers.decode(self.coded[name], bits)
        return self.decoded[name, bits]

    @staticmethod
    def part(name: str) -> str:
        """A tied embedding, too, is read as the head when it is the head."""
        return PARTS.get(name.split(".")[-1], "head")


def uniform(bits: int) -> dict[str, int]:
    """The same level for every part, as `precision=bits` means it."""
    return dict.fromkeys(("attn", "ffn", "head", "embed"), bits)
