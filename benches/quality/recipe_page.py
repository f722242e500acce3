"""The table and the checks as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from string import Template
from typing import Any

from recipe_checks import Check, counted
from recipe_rows import Line, Table

_ABOUT = """Toy models show the mechanism, not the quality at 7B.

- $tokens tokens that nothing was tuned or trained on; recipes are tuned on $tune_tokens other tokens.
- KL to the same store dense at 16 bits, with its bootstrap 95 % interval; decode semantics; keys and values \
in f32. Attention, head and embedding are at 16 bits in all rows but "all parts" and those of llama.cpp.
- Bytes are of weights that a new token touches, ranking included; for exact top-k (`oracle`) its neurons \
alone, as if ranking were free. In bands 25/25/50 the neurons that rank highest are at 16 bits, the next at 8.
- Made by `benches/quality/recipes.py` in $minutes minutes; $machine."""
_HEAD = ("recipe", "", "perplexity", "KL, 10⁻³ nats (95 %)", "MB a token", "bits per FFN weight", "active")


def markdown(table: Table, checks: Sequence[Check], picture: str) -> str:
    """The whole page."""
    parts = [
        "# Recipes, measured",
        _about(table),
        f"![KL against bytes a token]({picture})",
        "## Checks",
        _counts(checks),
        *(f"## {name}\n\n{_lines(table.find(subject=name))}" for name in table.subjects),
        _missing(table),
        "## Every check",
        _every(checks),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(table: Table, checks: Sequence[Check]) -> str:
    """What a terminal shows."""
    failed = [
        f"does not hold: {one.subject}, {one.where}: {one.rule} ({_value(one)})"
        for one in checks
        if not one.holds
    ]
    missing = [f"missing: {one.subject}, {one.label}: {one.reason}" for one in table.missing]
    return "\n".join([_counts(checks), *failed, *missing])


def _about(table: Table) -> str:
    about = table.about
    machine = ", ".join(f"{name} {value}" for name, value in about["machine"].items())
    return Template(_ABOUT).substitute({name: str(value) for name, value in about.items()}, machine=machine)


def _counts(checks: Sequence[Check]) -> str:
    rows = [
        [rule, f"{holds} of {total}", str(clear)] for rule, (holds, clear, total) in counted(checks).items()
    ]
    return _table(["check", "holds", "beyond the 95 % interval"], rows)


def _every(checks: Sequence[Check]) -> str:
    rows = [
        [one.rule, one.subject, one.where, "yes" if one.holds else "**no**", _value(one)] for one in checks
    ]
    return _table(["check", "subject", "where", "holds", "figure"], rows)


def _value(check: Check) -> str:
    if check.interval is None:
        return f"× {check.value:.4f}"
    low, high = check.interval
    return f"{1e3 * check.value:+.3f} ({1e3 * low:+.3f} to {1e3 * high:+.3f}) 10⁻³ nats"


def _lines(lines: Sequence[Line]) -> str:
    return _table(_HEAD, [_cells(one) for one in lines])


def _cells(line: Line) -> list[str]:
    ends = " to ".join(_digits(1e3 * one) for one in line.interval) if line.interval else "too few tokens"
    active = sum(line.active)
    return [
        line.group,
        line.label,
        f"{line.perplexity:.3f}",
        f"{_digits(1e3 * line.kl)} ({ends})",
        f"{line.shown[0] / 1e6:.3f}",
        f"{line.shown[1]:.2f}",
        f"{active:.0%}" if active else "100%",
    ]


def _digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"


def _missing(table: Table) -> str:
    if not table.missing:
        return ""
    rows = [[one.subject, one.label, one.reason] for one in table.missing]
    return f"## Missing\n\n{_table(['subject', 'what', 'why'], rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])
