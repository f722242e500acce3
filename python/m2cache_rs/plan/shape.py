"""A model's shape and how its weights are coded: all that planning needs, with or without a store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.errors import UsageError, integer
from m2cache_rs.machine.machine import usable_cores
from m2cache_rs.machine.memory import rss
from m2cache_rs.models import Architecture
from m2cache_rs.models.rope import positions
from m2cache_rs.plan import budget
from m2cache_rs.plan.budget import Costs, Weights
from m2cache_rs.plan.planner import Subject
from m2cache_rs.plan.reads import Reads
from m2cache_rs.recipe.dial import Chosen, Dial, Home
from m2cache_rs.recipe.heads import HeadPredictor
from m2cache_rs.recipe.predictors import Predictor, names
from m2cache_rs.recipe.recipe import Dense, Recipe
from m2cache_rs.recipe.work import Work

# Positions that have room unless somebody asks for more or less (--ctx).
_POSITIONS = 4096
# A tokenizer in memory: 460 bytes an entry and 4 MB measured at 32,000 and 128,000 entries.
_TOKENIZER_ENTRY, _TOKENIZER = 512, 5 << 20

MAX_THREADS = 1024
# Threads a core, beyond which a number is a mistake: each takes scratch out of the budget, and only waits.
_THREADS_A_CORE = 16

_LOG = logging.getLogger("m2cache_rs")


def check_threads(threads: int | None) -> None:
    """UsageError where `threads` is no count of threads (None: one a core)."""
    if threads is None:
        return
    cores = usable_cores()
    most = min(MAX_THREADS, _THREADS_A_CORE * cores)
    if not 1 <= integer("threads", threads) <= most:
        raise UsageError(
            f"threads is {threads!r}; with {cores} cores it must lie in 1..{most} (one a core is the fastest)"
        )


def tell_idle_threads(threads: int | None) -> None:
    """Warns of more threads than cores."""
    cores = usable_cores()
    if threads is not None and threads > cores:
        _LOG.warning("threads is %d, but this process has %d cores: the others only wait", threads, cores)


class Shape:
    """An architecture and an encoding, the latter as a manifest has it."""

    def __init__(self, architecture: Architecture, encoding: Mapping[str, Any]) -> None:
        self.architecture = architecture
        self.encoding = encoding
        self.planes = int(encoding["planes"])

    @cached_property
    def context(self) -> int:
        """Positions that a sequence of the model may have, its rope scaling included."""
        return positions(self.architecture.rope, self.architecture.context)

    def positions(self, asked: int | None) -> int:
        """Positions to make room for: as asked, else the context, but no more than 4096. UsageError."""
        if asked is None:
            return min(self.context, _POSITIONS)
        if isinstance(asked, bool) or not 1 <= asked <= self.context:
            raise UsageError(f"ctx is {asked}; the model's context takes 1 to {self.context} positions")
        return asked

    def room(self, positions: int) -> str:
        """In words, what allows that many positions and no more."""
        return "the room that --ctx makes" if positions < self.context else "the model's context"

    @property
    def home(self) -> Home | None:
        """Where its store lies, if there is one."""
        return None

    def choose(self, dial: Dial) -> Chosen:
        """The recipe that is asked for. UsageError, StoreError."""
        chosen = dial.choose(self.planes, self.home)
        chosen.recipe.core(self.architecture)
        return chosen

    def predictor(self, recipe: Recipe) -> Predictor | None:
        """The predictor that a recipe reads, if it does. UsageError, StoreError, StoreIOError."""
        if recipe.predictor is None or self.home is None:
            return None
        return Predictor(self.home.path, recipe.predictor, self.home.id, self.architecture)

    @property
    def only_predictor(self) -> str | None:
        """The name of its store's predictor, if that has one and no other."""
        there = [] if self.home is None else names(self.home.path)
        return there[0] if len(there) == 1 else None

    def query_heads(self, recipe: Recipe) -> HeadPredictor | None:
        """What chooses its query heads, if it leaves out some. UsageError, StoreError, StoreIOError."""
        if recipe.query_heads is None or self.home is None:
            return None
        return HeadPredictor(self.home.path, self.home.id, self.architecture)

    def weights(self, recipe: Recipe, serves: Sequence[Recipe] = ()) -> Weights:
        """What the weights take under a recipe, in a model that serves others, too."""
        return Weights.of(self.architecture, self.encoding, recipe, serves)

    def subject(self, recipe: Recipe, kv: str) -> Subject:
        """What the cost model must know."""
        position = budget.kv_bytes(self.architecture, 64, kv) // 64
        weights, prompt = self.weights(recipe), self.weights(recipe.of_prompt)
        work, found = self._work(recipe), self.predictor(recipe)
        if found is not None:
            work = work.with_dots(found.bits, found.bytes())
        prompt_work = self._work(recipe.of_prompt)
        return Subject(
            self.architecture, recipe, weights, prompt, work, prompt_work, position, self.reads(recipe)
        )

    def reads(self, recipe: Recipe) -> Callable[[int], Reads]:
        """What a decode token reads beside a cache of so many bytes."""
        request = self.request_bytes([recipe])
        return lambda cache: Reads.of(self.architecture, self.encoding, recipe, cache, request)

    def request_bytes(self, recipes: Sequence[Recipe]) -> int | None:
        """What a read of the store's disk costs beside its bytes, where that decides what is read."""
        if all(isinstance(recipe.ffn, Dense) for recipe in recipes) or self.home is None:
            return None
        from m2cache_rs.plan.rates import request_bytes

        return request_bytes(self.home.path)

    def _work(self, recipe: Recipe) -> Work:
        return Work.of(self.architecture, self.encoding, recipe)

    def costs(
        self,
        recipe: Recipe,
        act: str,
        positions: int,
        threads: int | None,
        kv: str,
        reserve: int = 0,
        logit_rows: int = DECODE_BATCH,
        serves: Sequence[Recipe] = (),
        sequences: int = 1,
    ) -> Costs:
        """What a process that runs the model takes beside its weights, from the memory of this one now.

        Of a model that serves other recipes, too; `sequences` of so many positions each are there at once.
        """
        check_threads(threads)
        workers = threads or usable_cores()
        spec = self.architecture
        scratch = budget.scratch_bytes(spec, recipe, act, positions, workers, logit_rows, serves)
        factors = self._factors((recipe, *serves))
        kept = sequences * budget.kv_bytes(spec, positions, kv)
        return Costs(self.base(), kept, scratch, reserve, factors)

    def _factors(self, recipes: Sequence[Recipe]) -> int:
        """What predictors take at most: one of each kind is there at a time."""
        predictors, heads = map(self.predictor, recipes), map(self.query_heads, recipes)
        most = [max((one.memory() for one in found if one), default=0) for found in (predictors, heads)]
        return sum(most)

    def base(self) -> int:
        """Bytes of this process and of the tokenizer that the model will have."""
        return rss() + _TOKENIZER + _TOKENIZER_ENTRY * self.architecture.vocab
