"""From a path and a cache size to a store and a budget, with an answer to all that a user can get wrong."""

from __future__ import annotations

import logging
from pathlib import Path

from m2cache_rs._core import Engine, Store
from m2cache_rs.config import format_size, parse_size, user_path
from m2cache_rs.errors import BudgetError
from m2cache_rs.models import Architecture
from m2cache_rs.runtime.memory import free_memory
from m2cache_rs.runtime.places import why_no_store

_LOG = logging.getLogger("m2cache_rs")
# Kept free beside the weights: interpreter, libraries and scratch; 60 MB measured, the rest is for the other
# programs.
_MARGIN = 256 << 20
# Positions whose keys and values the default cache leaves room for; longer contexts want an explicit --cache.
_KV_POSITIONS = 4096

Levels = tuple[int, int, int, int]


def open_store(path: str | Path) -> Store:
    """The store at `path`. UsageError says what else lies there; StoreError what is broken in it."""
    path = user_path(path)
    wrong = why_no_store(path)
    if wrong:
        raise wrong
    return Store(str(path))


def cache_bytes(
    store: Store, levels: Levels, architecture: Architecture, cache: int | str | None, promised: int = 0
) -> int:
    """Bytes of weight cache: what was asked for, else all weights at these levels as far as memory is free.

    `promised` bytes of the free memory belong to somebody else already. BudgetError names the least that
    works.
    """
    everything, least = Engine.needs(store, levels)
    free = free_memory() - promised - _MARGIN - _kv_bytes(architecture)
    if cache is None:
        return _fitting(everything, least, free)
    wanted = parse_size(cache, "cache")
    if wanted < least:
        raise BudgetError(
            f"a cache of {format_size(wanted)} is too small for this model at this precision: "
            f"the least that works is {least} bytes ({format_size(least)})"
        )
    if min(wanted, everything) > free:
        _LOG.warning("a cache of %s is more than the free memory holds", format_size(wanted))
    return min(wanted, everything)


def _fitting(everything: int, least: int, free: int) -> int:
    if free < least:
        raise BudgetError(
            f"this model at this precision needs a cache of at least {format_size(least)}, and only "
            f"{format_size(max(free, 0))} of memory is free for it: free some, or lower the precision"
        )
    if free < everything:
        _LOG.warning(
            "the weights at this precision take %s, the cache holds %s (free memory, less a margin); "
            "the rest is read from the store for every token",
            format_size(everything),
            format_size(free),
        )
    return min(everything, free)


def _kv_bytes(architecture: Architecture) -> int:
    positions = min(architecture.context, _KV_POSITIONS)
    return positions * architecture.layers * architecture.kv_heads * architecture.head_dim * 2 * 4
