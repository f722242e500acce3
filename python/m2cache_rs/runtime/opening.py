"""From a path to an open store, with an answer to all that a user can get wrong about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from m2cache_rs._core import Engine, Store, Survey
from m2cache_rs.config import user_path
from m2cache_rs.errors import M2CacheError, UsageError
from m2cache_rs.machine.memory import peak_rss, rss
from m2cache_rs.machine.places import why_no_store
from m2cache_rs.models import Architecture
from m2cache_rs.plan.budget import Budget
from m2cache_rs.plan.shape import Shape
from m2cache_rs.plan.wish import Wish, choose
from m2cache_rs.recipe.dial import Home
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.assets import Assets
from m2cache_rs.runtime.options import Options


class Opened(Shape):
    """A store whose manifest and headers were read, and what lies beside its weights; no weight was read."""

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        self.store = open_store(path)
        self.manifest: dict[str, Any] = json.loads(self.store.manifest())
        self.assets = Assets(self.path)
        super().__init__(Architecture.from_dict(self.manifest["architecture"]), self.manifest["encoding"])

    @property
    def home(self) -> Home:
        """Where it lies."""
        spec = self.architecture
        return Home(self.path, self.manifest["id"], spec.layers, spec.ffn)

    def base(self) -> int:
        """Bytes of this process, its tokenizer loaded: a large vocabulary takes more than the rest."""
        if self.assets.has_tokenizer:
            with suppress(M2CacheError):  # a broken one is told of by whoever uses it
                self.assets.tokenizer  # noqa: B018
        return rss()

    def budget(
        self,
        wish: Wish,
        recipe: Recipe,
        act: str,
        positions: int,
        threads: int | None,
        kv: str,
        logit_rows: int,
        serves: Sequence[Recipe] = (),
        sequences: int = 1,
    ) -> Budget:
        """The budget of a wish. BudgetError names the least that works."""
        costs = self.costs(recipe, act, positions, threads, kv, wish.reserve, logit_rows, serves, sequences)
        return choose(wish, self.weights(recipe, serves), costs, peak_rss())

    def check_scratch(self, recipe: Recipe, budget: Budget, options: Options, positions: int) -> None:
        """UsageError where a recipe takes more than the budget has for it beside weights, keys and values."""
        costs = self.costs(
            recipe, options.act, positions, options.threads, options.kv, logit_rows=options.logit_rows
        )
        needs, have = costs.scratch + costs.predictor, budget.scratch + budget.predictor
        if needs > have:
            raise UsageError(
                f"this recipe takes {needs} bytes beside weights, keys and values, and the budget has "
                f"{have}: name it when the model is opened (serves)"
            )

    def give_predictors(self, recipe: Recipe, engine: Engine) -> None:
        """Hands over, layer by layer, what the recipe ranks neurons by and chooses query heads by."""
        predictor, heads = self.predictor(recipe), self.query_heads(recipe)
        if predictor is not None:
            for layer, factors in enumerate(predictor.layers()):
                engine.set_predictor(
                    layer, factors.down, factors.up, factors.bias, factors.weight, predictor.bits
                )
        if heads is not None:
            for layer, one in enumerate(heads.layers()):
                engine.set_head_predictor(layer, one.weight, one.bias)

    def predictor_files(self, recipe: Recipe) -> dict[Path, str]:
        """The files that `give_predictors` reads, each with its digest."""
        read = (self.predictor(recipe), self.query_heads(recipe))
        return {one.path: one.digest for one in read if one is not None}


def open_store(path: str | Path) -> Store:
    """The store at `path`. UsageError says what else lies there; StoreError what is broken in it."""
    return Store(_place(path))


def open_survey(path: str | Path) -> Survey:
    """The same with its files unopened, which may be broken."""
    return Survey(_place(path))


def _place(path: str | Path) -> str:
    path = user_path(path)
    wrong = why_no_store(path)
    if wrong:
        raise wrong
    return str(path)
