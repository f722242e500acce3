"""Recipes that `m2cache tune` finds for budgets between uniform 4 and uniform 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.tune import entropy
from m2cache_rs.tune.goal import Goal
from m2cache_rs.tune.layers import FIXED_BANDS, Shares, of_active
from m2cache_rs.tune.model import Settings, Tuning, tuning
from recipe_choices import Choice
from recipe_meter import Options
from recipe_rows import ENTROPY_TUNED, FIXED, KL_TUNED

# Places of the budgets: 0 is uniform 4 bits, 1 uniform 8, 2 uniform 16.
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)


@dataclass(frozen=True)
class Budgeted:
    """A recipe, and the bytes a token that it was found for."""

    choice: Choice
    budget: float


def budgets(uniform: dict[int, float]) -> dict[str, float]:
    """Bytes a token by name, from those of uniform 4, 8 and 16 bits."""
    low, middle, high = (uniform[bits] for bits in (4, 8, 16))
    found = {}
    for place in PLACES:
        first, last, from_, to = (4, 8, low, middle) if place <= 1 else (8, 16, middle, high)
        part = place if place <= 1 else place - 1
        name = f"uniform {first}" if part == 0 else f"{part:.0%} from {first} to {last}"
        found["uniform 8" if place == 1 else name] = from_ + part * (to - from_)
    return found


def tuned(
    store: Path, text: str, tokens: int, options: Options, say: Callable[[str], None]
) -> Iterator[Budgeted]:
    """By KL, by M2Cache's entropy, and the fixed bands with the largest active share, each for all budgets.

    They are measured on `tokens` tokens of `text`. Raises what `m2cache tune` does.
    """
    for objective, group in (("kl", KL_TUNED), ("entropy", ENTROPY_TUNED)):
        settings = Settings(objective=objective, tokens=tokens, dram=options.dram, threads=options.threads)
        with tuning(store, text, settings, _every(say, f"tuning by {objective}")) as run:
            bytes_ = {bits: point.bytes for bits, point in run.uniform.items()}
            for name, budget in budgets(bytes_).items():
                # Half a byte: uniform levels are counted, and must not be lost to rounding.
                found = run.asked(Goal(bytes=budget + 0.5))
                yield Budgeted(Choice(group, name, found.recipe), budget)
                if objective == "kl":
                    yield Budgeted(Choice(FIXED, name, *_fixed(run, budget)), budget)


def _fixed(run: Tuning, budget: float) -> tuple[Recipe, float, str]:
    """M2Cache's bands in every layer, with as many neurons as the budget allows."""

    def layers(active: float) -> list[Shares]:
        return [of_active(active, FIXED_BANDS)] * run.meter.layers

    active = entropy.largest(lambda share: run.tuner.size(layers(share)), budget)
    return run.meter.recipe(layers(active)), active, "25/25/50"


def _every(say: Callable[[str], None], words: str, step: int = 50) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done % step == 0:
            say(f"{words}: {done} of at most {total} recipes measured")

    return progress
