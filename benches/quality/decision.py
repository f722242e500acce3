"""The rule that turns the table into a default: where KL differs by under 10 %, fewer bits win."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import metrics
from forms import EQUALISATIONS, FOUR, Form, Reading
from results import Results, Row, names
from stores import SYSTEM

MARGIN = 1.10
DECIDING = FOUR  # the first plane is what is always read, and where the forms differ most


@dataclass(frozen=True)
class Ratio:
    """KL of one configuration over that of another on the same windows, with its paired 95 % interval."""

    model: str
    variant: str
    value: float
    interval: tuple[float, float]


def ratios(
    results: Results, over: dict[str, str], under: dict[str, str], reading: Reading
) -> Iterator[Ratio]:
    """KL ratios of two configurations (labels `form`, `equalised`), one a subject."""
    for row, base in zip(_ours(results, reading, over), _ours(results, reading, under), strict=True):
        if (row.model, row.variant) != (base.model, base.variant):
            raise ValueError("the rows of two configurations are in different order")
        yield Ratio(
            row.model, row.variant, row.kl / base.kl, metrics.ratio_interval(row.windows, base.windows)
        )


def _ours(results: Results, reading: Reading, labels: dict[str, str]) -> list[Row]:
    return results.find(system=SYSTEM, reading=str(reading), **labels)


def mean_ratio(
    results: Results, over: dict[str, str], under: dict[str, str], variant: str | None = None
) -> float:
    """Geometric mean over subjects (of one variant) at the deciding level."""
    found = [r.value for r in ratios(results, over, under, DECIDING) if variant in (None, r.variant)]
    return math.exp(sum(map(math.log, found)) / len(found))


def best_equalisation(results: Results, form: str) -> str:
    """The simplest way that no other beats by the margin on plain or on injected models."""
    best = EQUALISATIONS[0]
    for other in EQUALISATIONS[1:]:
        over, under = {"form": form, "equalised": best}, {"form": form, "equalised": other}
        gain, loss = (mean_ratio(results, over, under, variant) for variant in ("injected", "plain"))
        if max(gain, loss) > MARGIN and min(gain, loss) > 1 / MARGIN:
            best = other
    return best


def best_form(results: Results, equalised: str) -> str:
    """Fewest bits first; more bits must lower KL by the margin.

    Of equal bits within the margin, the form wins that is better on injected models without equalisation: it
    needs that help less.
    """
    rows = results.find(system=SYSTEM, reading=str(DECIDING), equalised=equalised)
    bits = {row.form: row.bits_per_weight for row in rows}
    best, *others = sorted(names(rows, "form"), key=bits.__getitem__)
    for other in others:
        gain = _form_ratio(results, best, other, equalised)
        tie = bits[other] == bits[best] and 1 / MARGIN < gain < MARGIN
        if gain > MARGIN or (tie and _form_ratio(results, best, other, "none", "injected") > 1):
            best = other
    return best


def _form_ratio(results: Results, over: str, under: str, equalised: str, variant: str | None = None) -> float:
    first, second = ({"form": form, "equalised": equalised} for form in (over, under))
    return mean_ratio(results, first, second, variant)


def decide(results: Results) -> tuple[str, str]:
    """(form, equalisation) of the default."""
    equalised = best_equalisation(results, str(Form("symmetric", 64)))
    return best_form(results, equalised), equalised
