"""From an open store and a budget to a running engine: whatever is opened and said once, in its order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from m2cache_rs._core import Engine
from m2cache_rs.config import user_path
from m2cache_rs.plan.budget import Budget
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.cpu import CpuBackend
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.options import Options
from m2cache_rs.runtime.running import Running, Turn
from m2cache_rs.runtime.trace import Recorder

_LOG = logging.getLogger("m2cache_rs")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What an engine is started with: what it computes first, and the other recipes that it will `serve`.

    `sequences` of so many `positions` each fit, and no more where the process is `capped`; `trace` is written
    where there is one.
    """

    options: Options
    recipe: Recipe
    serves: Sequence[Recipe]
    positions: int
    sequences: int
    capped: bool
    trace: str | Path | None

    def run(self, opened: Opened, budget: Budget) -> tuple[Running, Budget]:
        """The running engine, and the budget with the slots that it made of the cache."""
        spec = opened.architecture
        turn = Turn(self.recipe, self.recipe.core(spec))
        engine = self._engine(opened, turn.core, budget)
        opened.give_predictors(self.recipe, engine)
        # Each sequence takes whole blocks of 64 positions.
        capacity = self.sequences * -(-self.positions // 64) * 64 if self.capped else None
        backend = CpuBackend(engine, spec, self.options.kv, capacity)
        counted = backend.stats()
        for note in counted["notes"]:
            _LOG.warning("%s", note)
        recorder = self._recorder(opened, engine)
        if opened.manifest["synthetic"]:
            _LOG.warning("%s is synthetic: random weights, whose text means nothing", opened.path)
        give = partial(opened.give_predictors, engine=engine)
        running = Running(backend, turn, give, opened.predictor_files, recorder, self.capped)
        return running, budget.placed(counted["ring_bytes"], counted["fixed_bytes"])

    def _engine(self, opened: Opened, core: str, budget: Budget) -> Engine:
        options = self.options
        given = opened.store, core, options.act, budget.cache, options.verify, options.threads, options.io
        request = opened.request_bytes((self.recipe, *self.serves))
        return Engine(*given, request=request, serves=[one.core(opened.architecture) for one in self.serves])

    def _recorder(self, opened: Opened, engine: Engine) -> Recorder | None:
        if self.trace is None:
            return None
        return Recorder(user_path(self.trace), engine, opened.manifest["id"], self.recipe.precision)
