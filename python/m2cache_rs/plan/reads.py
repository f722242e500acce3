"""What a decode token reads from the store beside a cache, as the core foresees it from the layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m2cache_rs import _core
from m2cache_rs.models import Architecture
from m2cache_rs.recipe.recipe import Recipe


@dataclass(frozen=True)
class Reads:
    """Bytes of whole blocks (`swept`), read in the order of the model, and of records that are known
    to be wanted only while the token is computed (`chosen`), with gaps and pages between them, in so many
    `reads`. Neurons are taken to lie evenly spread; where thresholds choose them it is the most.
    """

    swept: int
    chosen: int
    reads: int

    @classmethod
    def of(
        cls, spec: Architecture, encoding: Mapping[str, Any], recipe: Recipe, cache: int, request: int | None
    ) -> Reads:
        """From a spec and a coding as the manifest has it, beside `cache` bytes; `request`: what a read costs
        beside its bytes, in bytes (None: the usual). BudgetError: too small a cache. UsageError: the recipe.
        """
        found = _core.forecast(spec.to_json(), json.dumps(encoding), recipe.core(spec), cache, request)
        return cls(**json.loads(found))

    @property
    def total(self) -> int:
        """All bytes."""
        return self.swept + self.chosen

    @property
    def chosen_read(self) -> int:
        """Bytes of one read of chosen records."""
        return self.chosen // max(1, self.reads)
