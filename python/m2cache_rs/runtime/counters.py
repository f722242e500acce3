"""What `Model.stats()` counts, as a tree of dicts and lists: what came to it since, and sums."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

# What is said beside the counters: not added up.
_STATES = frozenset(
    {"io", "notes", "isa", "threads", "fixed_bytes", "ring_bytes", "kv", "kv_bytes", "kv_capacity"}
    | {"section", "stored_bytes", "layer"}
)


def since(now: Any, before: Any) -> Any:
    """What was counted between two looks at the same counters; states are those of `now`."""
    return _each(operator.sub, now, before)


def total(now: Any, other: Any) -> Any:
    """What was counted in two stretches; states are those of `now`."""
    return _each(operator.add, now, other)


def _each(of: Callable[[Any, Any], Any], now: Any, other: Any) -> Any:
    if isinstance(now, dict):
        return {
            name: value if name in _STATES else _each(of, value, other[name]) for name, value in now.items()
        }
    if isinstance(now, list):
        return [_each(of, *pair) for pair in zip(now, other, strict=True)]
    return of(now, other)
