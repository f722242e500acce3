"""A line of the table of recipes, what is missing from it, and the file that holds both."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from metrics import Double

UNIFORM, ALL_PARTS, ORACLE, PEER = "uniform", "all parts", "oracle", "llama.cpp"
CASCADE = "cascade"
KL_TUNED, ENTROPY_TUNED, FIXED = "tuned, KL", "tuned, entropy", "fixed 25/25/50"
ORDER = (UNIFORM, ALL_PARTS, ORACLE, "plane", "lowrank", CASCADE, KL_TUNED, ENTROPY_TUNED, FIXED, PEER)


@dataclass(frozen=True)
class Line:
    """A configuration of a subject, measured.

    `group`: what ranks neurons, or one of the names above; `bands`: shares of the active neurons at 16, 8 and
    4 bits; `budget`: the bytes a token that a tuned recipe was given. KL in nats a token to the subject's
    reference with its bootstrap 95 % interval, `blocks` its sums over 32 neighbouring tokens (`counts` is in
    the table's `about`). `bytes` of weights that a new token touches and `bits` per FFN weight include what
    ranking takes; `free` are both without it, for exact top-k. `active`: shares of neurons at 16, 8, 4 bits.
    """

    subject: str
    group: str
    label: str
    perplexity: float
    kl: float
    interval: tuple[float, float] | None
    bytes: float
    bits: float
    active: tuple[float, float, float] = (0.0, 0.0, 0.0)
    share: float | None = None
    bands: str | None = None
    budget: float | None = None
    free: tuple[float, float] | None = None
    recipe: dict[str, Any] | None = field(default=None, repr=False)
    blocks: tuple[float, ...] = field(default=(), repr=False)

    @property
    def nats(self) -> Double:
        """`blocks` as an array."""
        return np.asarray(self.blocks)

    @property
    def shown(self) -> tuple[float, float]:
        """Bytes and bits to compare by: those of exact top-k as if ranking were free, for so it is meant."""
        return (self.bytes, self.bits) if self.free is None else self.free


@dataclass(frozen=True)
class Missing:
    """What could not be measured of a subject, and why."""

    subject: str
    label: str
    reason: str


@dataclass
class Table:
    """Lines of all subjects, what is missing, and `about`: what they were measured with, on and against."""

    about: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    @property
    def subjects(self) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(line.subject for line in self.lines))

    def find(self, **labels: Any) -> list[Line]:
        """Lines with these labels, in order."""
        return [one for one in self.lines if all(getattr(one, k) == v for k, v in labels.items())]

    def sort(self) -> None:
        """Subject by subject, in `ORDER`, each group as it was measured."""
        subjects = self.subjects
        self.lines.sort(key=lambda one: (subjects.index(one.subject), ORDER.index(one.group.split(" (")[0])))

    def save(self, path: Path) -> None:
        """Writes JSON, a line of the table a line."""
        self.sort()
        lines = ",\n".join(json.dumps(asdict(one)) for one in self.lines)
        missing = ",\n".join(json.dumps(asdict(one)) for one in self.missing)
        about = json.dumps(self.about, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"about": {about},\n"lines": [\n{lines}\n],\n"missing": [\n{missing}\n]}}\n')


def load(path: Path) -> Table:
    """Reads what `save` wrote."""
    values = json.loads(path.read_text())
    lines = list(map(_line, values["lines"]))
    return Table(values["about"], lines, [Missing(**one) for one in values["missing"]])


def _line(values: dict[str, Any]) -> Line:
    lists = {name: tuple(one) for name, one in values.items() if isinstance(one, list)}
    return Line(**{**values, **lists})
