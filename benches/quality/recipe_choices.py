"""The recipes that are compared: uniform levels, and every selector at every share in every kind of bands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from m2cache_rs.config import LEVELS
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.recipe import Dense, Recipe, Sparse
from recipe_rows import ALL_PARTS, CASCADE, UNIFORM

ACTIVE = (0.7, 0.5, 0.35, 0.25, 0.1)
# Shares of the active neurons at 16, 8 and 4 bits: all at 16, and M2Cache's.
BANDS = {"16": (1.0, 0.0, 0.0), "25/25/50": (0.25, 0.25, 0.5)}
# What the first step of a cascade leaves, in active sets; as `--candidates` has it.
_CANDIDATES = 2.0
# Attention, head and embedding stay at 16 bits, so that the FFN alone differs.
_BASE = Recipe.dense(16)


@dataclass(frozen=True)
class Selector:
    """What ranks neurons, and the predictor that it reads."""

    name: str
    kind: str
    predictor: str | None = None


EXACT, PLANE = Selector("oracle", "oracle"), Selector("plane", "plane")


def predicted(name: str) -> Selector:
    """Low-rank factors of that name."""
    return Selector(f"lowrank ({name})", "lowrank", name)


def cascade(name: str) -> Selector:
    """`plane` among what low-rank factors of that name leave."""
    return Selector(f"{CASCADE} ({name})", CASCADE, name)


@dataclass(frozen=True)
class Choice:
    """A recipe with the labels of its line."""

    group: str
    label: str
    recipe: Recipe
    share: float | None = None
    bands: str | None = None


def uniform() -> Iterator[Choice]:
    """The FFN dense at each level, then all parts at 4 and at 8 bits, as other quantisations have them."""
    for bits in LEVELS:
        yield Choice(UNIFORM, f"{bits} bits", with_ffn(Dense(bits)))
    for bits in LEVELS[:-1]:
        yield Choice(ALL_PARTS, f"{bits} bits", Recipe.dense(bits))


def sparse(selector: Selector) -> Iterator[Choice]:
    """A selector's recipes."""
    for name, bands in BANDS.items():
        for share in ACTIVE:
            candidates = (min(1.0, share * _CANDIDATES),) if selector.kind == "cascade" else ()
            ffn = Sparse(selector.kind, (Shares(share, bands),), candidates, selector.predictor)
            label = f"{share:.0%}, {name}"
            yield Choice(selector.name, label, with_ffn(ffn), share, name)


def with_ffn(ffn: Dense | Sparse) -> Recipe:
    """The FFN of decode tokens as given, all else at 16 bits."""
    return Recipe(_BASE.attn, _BASE.head, _BASE.embed, _BASE.prompt, ffn)
