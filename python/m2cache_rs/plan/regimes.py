"""Which way to compute the FFN pays: what a token touches and how fast it is dense, by `plane`, by `lowrank`.

With u one FFN matrix at 4 bits and a the active share: dense at 4, 8, 16 bits 3u, 6u, 12u; plane (2+a)u,
(2+4a)u, (2+10a)u, of which its scan of gate and up takes 2u; lowrank 3au, 6au, 12au and the predictor
(docs/design.md, 5). The figures here are the core's, of one shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from m2cache_rs.config import LEVELS
from m2cache_rs.plan.shape import Shape
from m2cache_rs.recipe.cut import Shares, one_level
from m2cache_rs.recipe.recipe import Dense, Ffn, Recipe, Sparse

# A predictor takes 3 to 6 % of the dense FFN at 4 bits (docs/design.md, 5).
_PREDICTOR = 0.05


# Less than this is within what the forecast misses, and dense has no loss to weigh.
_CLEAR = 1.1

Expected = Callable[[Recipe], "float | None"]
"""Tokens a second to expect of a recipe; None where it cannot run."""


@dataclass(frozen=True)
class Way:
    """A way to compute the FFN at a level: bytes that a token touches of it, tokens a second to expect."""

    bytes: int
    speed: float | None


@dataclass(frozen=True)
class Row:
    """The ways at a level."""

    bits: int
    dense: Way
    plane: Way
    lowrank: Way

    @property
    def ways(self) -> dict[str, Way]:
        """By name."""
        return {"dense": self.dense, "plane": self.plane, "lowrank": self.lowrank}

    def pays(self) -> str:
        """The fastest way and how much faster than dense it is; dense where the others are hardly faster."""
        speeds = {name: way.speed for name, way in self.ways.items() if way.speed is not None}
        if not speeds:
            return "nothing fits"
        best, dense = max(speeds, key=lambda name: speeds[name]), speeds.get("dense")
        if dense is None:
            return best
        times = speeds[best] / dense
        return "dense" if times < _CLEAR else f"{best} ({times:.2g} times dense)"


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
    def of(cls, shape: Shape, active: float, recipe: Recipe, expected: Expected) -> Regimes:
        """Of a shape's stored levels; `recipe` names the predictor, else it is the only one of the store."""
        name = recipe.predictor or shape.only_predictor
        ranked = Sparse("lowrank", (Shares(active, one_level(4)),), predictor=name)
        found = shape.predictor(Recipe(4, 4, 4, 4, ranked))
        predictor = found.bytes() if found else int(_PREDICTOR * _touched(shape, Dense(4)))
        rows = []
        for bits in LEVELS[: shape.planes]:
            cut = (Shares(active, one_level(bits)),)
            plane, lowrank = Sparse("plane", cut), Sparse("lowrank", cut, predictor=name)
            speeds = (expected(Recipe(bits, bits, bits, bits, ffn)) for ffn in (Dense(bits), plane, lowrank))
            dense, scanned, chosen = (_touched(shape, ffn) for ffn in (Dense(bits), plane, lowrank))
            rows.append(Row(bits, *map(Way, (dense, scanned, chosen + predictor), speeds)))
        return cls(active, tuple(rows), _scan(shape), predictor, found is not None)

    def advice(self) -> str:
        """Which way is the fastest by what is to be expected, in words."""
        paying = ", ".join(f"at {row.bits} bits {row.pays()}" for row in self.rows)
        rule = "dense unless another is a tenth faster"
        return f"{paying} ({rule}); `m2cache eval` says what leaving out neurons costs"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; bytes per token."""
        return {
            "active": self.active,
            "ffn_bytes_per_token": {
                str(row.bits): {name: way.bytes for name, way in row.ways.items()} for row in self.rows
            },
            "tokens_per_second": {
                str(row.bits): {name: way.speed for name, way in row.ways.items()} for row in self.rows
            },
            "scan_bytes": self.scan,
            "predictor_bytes": self.predictor,
            "predictor_known": self.known,
        }


def _touched(shape: Shape, ffn: Ffn) -> int:
    return shape.weights(Recipe(4, 4, 4, 4, ffn)).parts["ffn"]


def _scan(shape: Shape) -> int:
    """All matrices but down, whose records are as long."""
    matrices = len(shape.architecture.ffn_matrices)
    return _touched(shape, Dense(4)) // matrices * (matrices - 1)


def compared_share(recipe: Recipe) -> float:
    """The share that a recipe computes, a mean over its layers; half where it computes all."""
    if not isinstance(recipe.ffn, Sparse):
        return 0.5
    shares = [cut.active if isinstance(cut, Shares) else cut.most for cut in recipe.ffn.layers]
    return sum(shares) / len(shares)
