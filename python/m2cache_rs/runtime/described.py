"""What an open model says of itself: its store, recipe, options and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from m2cache_rs.config import Precision
from m2cache_rs.errors import UsageError
from m2cache_rs.plan.budget import Budget, Weights
from m2cache_rs.recipe.dial import Chosen
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.options import Options

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Described:
    """What stays as it is while a model is open. `context`: positions of its sequences."""

    def __init__(
        self, opened: Opened, options: Options, chosen: Chosen, budget: Budget, context: int
    ) -> None:
        self.path = opened.path
        self.options = options
        self.chosen = chosen
        self.budget = budget
        self.context = context
        self.planes = opened.planes
        self.architecture = opened.architecture
        self.assets = opened.assets
        self._opened = opened

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the special tokens that the model's tokenizer adds."""
        return self.assets.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens. UsageError where they are no ids."""
        try:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        except (TypeError, OverflowError):
            raise UsageError(f"ids are {ids!r}; integers from 0 on are needed") from None

    def text_of(self, ids: Sequence[int]) -> str:
        """Like `decode`, and empty where the store has no tokenizer."""
        return self.decode(ids) if self.assets.has_tokenizer else ""

    @property
    def act(self) -> str:
        """What levels 4 and 8 are computed in: "auto" (integers) or "f32"."""
        return self.options.act

    @property
    def kv(self) -> str:
        """What keys and values are kept as: "f16" or "f32"."""
        return self.options.kv

    @property
    def recipe(self) -> Recipe:
        """What is computed."""
        return self.chosen.recipe

    @property
    def precision(self) -> Precision:
        """Bits of the parts; of the FFN the finest level of a decode token."""
        return self.recipe.precision

    @cached_property
    def weights(self) -> Weights:
        """What the weights take under this recipe, and what one token touches of them."""
        return self._opened.weights(self.recipe)

    @property
    def cache(self) -> int:
        """Bytes of weight cache."""
        return self.budget.cache

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. UnsupportedError where the store has none."""
        return self.assets.tokenizer

    def layout(self) -> dict[str, Any]:
        """The store's files and sections, as the core computes them."""
        return dict(json.loads(self._opened.store.layout()))
