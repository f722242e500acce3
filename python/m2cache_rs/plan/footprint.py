"""What weights cost in bytes, by the layout of the store: per part and per level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from m2cache_rs.config import LEVELS, PARTS, PLANES
from m2cache_rs.models import Architecture

_PARTS_OF = {
    "q": "attn",
    "k": "attn",
    "v": "attn",
    "o": "attn",
    "gate": "ffn",
    "up": "ffn",
    "down": "ffn",
    "head": "head",
    "embed": "embed",
}


@dataclass(frozen=True)
class Section:
    """A section of one file, as the core's layout tells it; bytes are those on disk, padding included."""

    file: str
    name: str
    slices: tuple[tuple[str, str], ...]
    records: int
    payload: int
    stride: int

    @property
    def bytes(self) -> int:
        """Bytes of all records."""
        return self.records * self.stride

    def read_by(self, part: str, bits: int) -> bool:
        """Whether a part at that level touches this section."""
        planes = PLANES[: LEVELS.index(bits) + 1]
        return any(_PARTS_OF[matrix] == part and plane in planes for matrix, plane in self.slices)

    def rows_of(self, part: str) -> int:
        """Records of a part's matrices that are stored here, each counted in its base plane."""
        return self.records * sum(_PARTS_OF[m] == part and plane == "base" for m, plane in self.slices)


def sections(layout: Mapping[str, Any]) -> Iterator[Section]:
    """Every section of `Store.layout()`, in file order."""
    for file in layout["files"]:
        for one in file["sections"]:
            slices = tuple((matrix, plane) for matrix, plane in one["parts"])
            yield Section(file["name"], one["name"], slices, one["records"], one["payload"], one["stride"])


def bits_per_weight(
    layout: Mapping[str, Any], spec: Architecture, planes: int, padded: bool
) -> dict[str, dict[int, float]]:
    """part -> level -> 8 x bytes / weights, for the levels that `planes` planes hold.

    Bytes are codes and scales, or, `padded` to the stride, what is read: short records fill whole cache
    lines.
    """
    found = list(sections(layout))
    weights = {part: spec.hidden * sum(s.rows_of(part) for s in found) for part in PARTS}
    size = {s: s.bytes if padded else s.records * s.payload for s in found}
    return {
        part: {
            bits: 8 * sum(size[s] for s in found if s.read_by(part, bits)) / count for bits in LEVELS[:planes]
        }
        for part, count in weights.items()
        if count
    }
