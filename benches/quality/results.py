"""One line of the table, and the file that holds them all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from metrics import Double


@dataclass(frozen=True)
class Row:
    """A configuration and how far it is from the original checkpoint in float32.

    `reading` is a level (ours), or "own run" | "weights only" (llama.cpp). KL in nats per token, with the
    bootstrap 95 % interval of its mean; `kl_windows` are the windows' means, for paired comparisons.
    """

    model: str
    variant: str
    system: str
    form: str
    equalised: str
    reading: str
    bits_per_weight: float
    kl: float
    kl_interval: tuple[float, float]
    perplexity: float
    top1: float
    kl_windows: tuple[float, ...] = field(repr=False)

    @property
    def windows(self) -> Double:
        """`kl_windows` as an array."""
        return np.asarray(self.kl_windows)


@dataclass(frozen=True)
class Results:
    """All rows, and `about`: what they were measured with, on and against (JSON values)."""

    about: dict[str, Any]
    rows: list[Row]

    def find(self, **labels: str) -> list[Row]:
        """Rows with these labels, in the order in which they were measured."""
        return [r for r in self.rows if all(getattr(r, name) == value for name, value in labels.items())]

    def save(self, path: Path) -> None:
        """Writes JSON, a row a line."""
        rows = ",\n".join(json.dumps(dataclasses.asdict(row)) for row in self.rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"about": {json.dumps(self.about, indent=1)},\n"rows": [\n{rows}\n]}}\n')


def load(path: Path) -> Results:
    """Reads what `save` wrote."""
    values = json.loads(path.read_text())
    return Results(values["about"], [_row(row) for row in values["rows"]])


def _row(values: dict[str, Any]) -> Row:
    lists = {name: tuple(values[name]) for name in ("kl_interval", "kl_windows")}
    return Row(**{**values, **lists})


def names(rows: Iterable[Row], label: str) -> list[str]:
    """The values of a label, each once, in order."""
    return list(dict.fromkeys(getattr(row, label) for row in rows))
