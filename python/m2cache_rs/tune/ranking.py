"""What ranks neurons in every recipe that is searched: a selector, and what it needs beside shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.dial import twice
from m2cache_rs.recipe.recipe import PREDICTED, Sparse

SELECTORS = ("plane", *PREDICTED)


@dataclass(frozen=True)
class Ranking:
    """One of SELECTORS; the name of its predictor, if it reads one, and the `bytes` a token touches of it.

    `candidates`: the share of neurons that a cascade's first step leaves, where a layer keeps no more than
    that; None: twice what the layer keeps.
    """

    selector: str = "plane"
    predictor: str | None = None
    candidates: float | None = None
    bytes: int = 0

    def sparse(self, layers: Sequence[Shares]) -> Sparse:
        """The FFN whose layers (one for all, or each) are cut at these shares."""
        left = tuple(self._left(one.active) for one in layers) if self.selector == "cascade" else ()
        return Sparse(self.selector, tuple(layers), left, self.predictor)

    def _left(self, active: float) -> float:
        return twice(active) if self.candidates is None else max(self.candidates, active)
