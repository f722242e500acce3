"""Precisions, budgets and expectations in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2cache_rs.config import PARTS, Precision, format_size

if TYPE_CHECKING:
    from m2cache_rs.runtime.budget import Budget
    from m2cache_rs.runtime.planner import Expectation


def level_words(precision: Precision) -> str:
    """Bits of the parts, once where they agree."""
    levels = [getattr(precision, part) for part in PARTS]
    if len(set(levels)) == 1:
        return f"{levels[0]} bits"
    return ", ".join(f"{part} {bits}" for part, bits in zip(PARTS, levels, strict=True)) + " bits"


def activation_words(precision: Precision, act: str) -> str:
    """What the matrices are multiplied with; `act` is `auto` or `f32`."""
    coded = [bits < 16 for bits in (precision.attn, precision.ffn, precision.head) if bits is not None]
    if act == "f32" or not any(coded):
        return "f32 activations"
    return "int8 activations" if all(coded) else "int8 activations below 16 bits"


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
    caveat = f" ({expected.rates.caveat})" if expected.rates.caveat else ""
    return (
        f"{figures(expected.tokens_per_second)} tokens/s{caveat}, bound by {bound}; "
        f"first token after {seconds(expected.first_token)}"
    )


def seconds(value: float) -> str:
    """A time for a reader."""
    return f"{figures(value * 1e3)} ms" if value < 1 else f"{figures(value)} s"


def figures(value: float) -> str:
    """Three significant figures, written out: 0.0123, 4.56, 1010."""
    text = f"{value:.3g}"
    return f"{float(text):.12f}".rstrip("0").rstrip(".") if "e" in text else text
