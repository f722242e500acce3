"""Budgets and expectations in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2cache_rs.config import format_size

if TYPE_CHECKING:
    from m2cache_rs.runtime.budget import Budget
    from m2cache_rs.runtime.planner import Expectation


def budget_words(budget: Budget, positions: int) -> str:
    """Where the memory goes."""
    split = (
        ("process", budget.base),
        (f"keys and values ({positions} positions)", budget.kv),
        ("scratch", budget.scratch),
        ("ring", budget.ring),
        ("fixed weights", budget.fixed),
    )
    words = ", ".join(f"{name} {format_size(size)}" for name, size in split)
    return f"{format_size(budget.total)}: {words}"


def speed_words(expected: Expectation) -> str:
    """Rate and first token."""
    bound = "reads from the SSD" if expected.bound == "ssd" else "arithmetic"
    return (
        f"{expected.tokens_per_second:.3g} tokens/s, bound by {bound}; "
        f"first token after {seconds(expected.first_token)}"
    )


def seconds(value: float) -> str:
    """A time for a reader."""
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
