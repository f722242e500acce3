"""What memory was asked for, and the budget that it gets on this machine now."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from m2cache_rs.config import format_size, parse_size
from m2cache_rs.errors import BudgetError, UsageError
from m2cache_rs.machine.memory import free_memory
from m2cache_rs.plan import budget
from m2cache_rs.plan.budget import Budget, Costs, Weights

_LOG = logging.getLogger("m2cache_rs")
# Left to the other programs by the default budget, at most: a small cgroup has less to leave.
_MARGIN = 256 << 20


@dataclass(frozen=True)
class Wish:
    """What memory was asked for.

    `dram` caps the process, `cache` gives the weight cache alone; `reserve` bytes belong to somebody else in
    this process who has not taken them yet.
    """

    dram: int | None = None
    cache: int | None = None
    reserve: int = 0

    @classmethod
    def parse(cls, dram: int | str | None, cache: int | str | None, reserve: int) -> Wish:
        """From what a caller gives. UsageError names what is wrong."""
        if dram is not None and cache is not None:
            raise UsageError(
                "dram caps the whole process, cache gives its weight cache alone: drop cache, and the rest "
                "of the budget becomes weight cache; or drop dram"
            )
        return cls(_size(dram, "dram"), _size(cache, "cache"), parse_size(reserve, "reserve"))


def _size(given: int | str | None, name: str) -> int | None:
    return None if given is None else parse_size(given, name)


def choose(wish: Wish, weights: Weights, costs: Costs, peak: int = 0) -> Budget:
    """The budget of a wish; without one, all weights as far as memory is free.

    `peak` is what the process that runs the model has taken at most so far: no cap can be below. BudgetError
    names the least that works. Warns where the system may not have what was asked for.
    """
    if wish.cache is not None:
        return _given_cache(wish.cache, weights, costs)
    if wish.dram is not None:
        return _given_dram(wish.dram, weights, costs, peak)
    return _default(weights, costs)


def check_in_turn(wish: Wish, needs: Sequence[tuple[Weights, Costs]], peak: int) -> None:
    """BudgetError where a cap has no room for models that will be opened one after the other.

    Costs are as of now. What a model gives back the allocator may keep, though no more than its scratch:
    weights are mapped. `peak` as in `choose`.
    """
    if wish.dram is None:
        return
    before, opened = 0, []
    for weights, costs in needs:
        opened.append((weights, replace(costs, base=costs.base + before)))
        before = max(before, costs.scratch)
    try:
        choose(wish, *max(opened, key=lambda one: budget.least_dram(*one)), peak)
    except BudgetError as error:
        raise BudgetError(error.message) from None


def _given_cache(wanted: int, weights: Weights, costs: Costs) -> Budget:
    if wanted < weights.least:
        raise BudgetError(
            f"a cache of {format_size(wanted)} is too small for this model at this precision: "
            f"the least that works is {weights.least} bytes ({format_size(weights.least)})"
        )
    cache = min(wanted, weights.all)
    if cache > _free(costs):
        _LOG.warning("a cache of %s is more than the free memory holds", format_size(wanted))
    return budget.with_cache(None, cache, weights, costs)


def _given_dram(dram: int, weights: Weights, costs: Costs, peak: int) -> Budget:
    if dram < peak:
        least = max(peak, budget.least_dram(weights, costs))
        raise BudgetError(
            f"a budget of {format_size(dram)} is too small: this process has taken {format_size(peak)} "
            f"already; the least that works is {least} bytes ({format_size(least)})"
        )
    found = budget.split(dram, weights, costs)
    if found.cache > _free(costs):
        _LOG.warning("a budget of %s is more than the free memory holds", format_size(dram))
    return found


def _default(weights: Weights, costs: Costs) -> Budget:
    free = _free(costs)
    if free < weights.least:
        raise BudgetError(
            f"this model at this precision needs a cache of at least {format_size(weights.least)}, and only "
            f"{format_size(max(free, 0))} of memory is free for it beside a margin: free some, or cap the "
            "process (dram)",
            budget.WAYS,
        )
    if free < weights.all:
        _LOG.warning(
            "the weights at this precision take %s, the cache holds %s (free memory, less a margin); "
            "the rest is read from the store for every token",
            format_size(weights.all),
            format_size(free),
        )
    cache = min(weights.all, free)
    return budget.with_cache(costs.total + cache, cache, weights, costs)


def _free(costs: Costs) -> int:
    """What the system has for weights."""
    free = free_memory()
    return free - _margin(free) - costs.ahead


def _margin(free: int) -> int:
    return min(_MARGIN, free // 8)
