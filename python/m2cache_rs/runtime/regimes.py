"""Which way to compute the FFN pays where: bytes a token touches of it, dense, by `plane`, by `lowrank`.

With u one FFN matrix at 4 bits and a the active share: dense at 4, 8, 16 bits 3u, 6u, 12u; plane (2+a)u,
(2+4a)u, (2+10a)u, of which its scan of gate and up takes 2u; lowrank 3au, 6au, 12au and the predictor
(docs/design.md, 5). The figures here are the core's, of one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from m2cache_rs.config import LEVELS, format_size
from m2cache_rs.runtime.cut import Shares, one_level
from m2cache_rs.runtime.recipe import Ffn, Recipe, Sparse
from m2cache_rs.runtime.shape import Shape
from m2cache_rs.runtime.work import record_bytes

# A predictor takes 3 to 6 % of the dense FFN at 4 bits (docs/design.md, 5).
_PREDICTOR = 0.05


@dataclass(frozen=True)
class Row:
    """Bytes of the FFN that a token touches at a level."""

    bits: int
    dense: int
    plane: int
    lowrank: int


@dataclass(frozen=True)
class Regimes:
    """The comparison for an active share. `scan`: what plane reads of every neuron; `predictor`: what lowrank
    reads beside its neurons, and whether that is known or supposed."""

    active: float
    rows: tuple[Row, ...]
    scan: int
    predictor: int
    known: bool

    @classmethod
    def of(cls, shape: Shape, active: float, recipe: Recipe) -> Regimes:
        """Of a shape's stored levels; `recipe` names the predictor, if there is one."""
        found = shape.predictor(recipe)
        predictor = found.bytes() if found else int(_PREDICTOR * _dense(shape, 4))
        rows = []
        for bits in LEVELS[: shape.planes]:
            cut = (Shares(active, one_level(bits)),)
            plane, lowrank = (_ffn_bytes(shape, Sparse(name, cut)) for name in ("plane", "lowrank"))
            rows.append(Row(bits, _dense(shape, bits), plane, lowrank + predictor))
        return cls(active, tuple(rows), _scan(shape), predictor, found is not None)

    def advice(self, in_memory: bool, fixed: int) -> str:
        """The rule in words, for weights that lie in memory as a whole, or else for so many fixed bytes."""
        if in_memory:
            return (
                "all weights lie in memory: at 4 bits dense (plane saves little, and scans in every layer), "
                "at 8 and 16 bits plane"
            )
        scan = format_size(self.scan)
        if self.scan <= fixed:
            return (
                f"not all weights lie in memory, but gate and up at 4 bits ({scan}) do fit: plane, at the "
                "finest level that is stored"
            )
        return (
            f"gate and up at 4 bits ({scan}) do not fit in memory: lowrank where its measured KL will do "
            "(`m2cache eval`), else dense"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; bytes per token."""
        return {
            "active": self.active,
            "ffn_bytes_per_token": {
                str(row.bits): {"dense": row.dense, "plane": row.plane, "lowrank": row.lowrank}
                for row in self.rows
            },
            "scan_bytes": self.scan,
            "predictor_bytes": self.predictor,
            "predictor_known": self.known,
        }


def _ffn_bytes(shape: Shape, ffn: Ffn) -> int:
    return shape.weights(Recipe(4, 4, 4, 4, ffn)).parts["ffn"]


def _dense(shape: Shape, bits: int) -> int:
    """All records, without what pads them in the store: so are those of chosen neurons counted."""
    return _matrix(shape, bits) * len(shape.architecture.ffn_matrices)


def _scan(shape: Shape) -> int:
    return _matrix(shape, 4) * (len(shape.architecture.ffn_matrices) - 1)


def _matrix(shape: Shape, bits: int) -> int:
    """One matrix of every layer's FFN."""
    spec = shape.architecture
    return spec.layers * spec.ffn * record_bytes(shape.encoding["coding"], spec.hidden, bits)


def compared_share(recipe: Recipe) -> float:
    """The share that a recipe computes, a mean over its layers; half where it computes all."""
    if not isinstance(recipe.ffn, Sparse):
        return 0.5
    shares = [cut.active if isinstance(cut, Shares) else cut.most for cut in recipe.ffn.layers]
    return sum(shares) / len(shares)
