"""Which recipe a caller asks for: one dial (`quality`), a file, or the parts one by one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from m2cache_rs.config import LEVELS, Precision, PrecisionLike, user_path
from m2cache_rs.errors import UsageError, integer
from m2cache_rs.recipe import predictors, tuned
from m2cache_rs.recipe.cut import Shares, one_level, parse_bands, share
from m2cache_rs.recipe.neurons import NeuronProfile
from m2cache_rs.recipe.recipe import PREDICTED, SELECTORS, Certified, Dense, Ffn, Recipe, Sparse
from m2cache_rs.recipe.thresholds import above
from m2cache_rs.recipe.tuned import EXACT, QUALITIES, Measured

_LOG = logging.getLogger("m2cache_rs")

CUTS = ("top", "threshold")
SELECTS = (*SELECTORS[:3], "certified", SELECTORS[3])
# What is active where nothing is said.
_ACTIVE = 0.5

BandsLike = str | Sequence[float]
RecipeLike = str | Path | Mapping[str, Any] | Recipe


@dataclass(frozen=True)
class Home:
    """A store that lies somewhere: what its `profiles/` hold can be asked for. Its layers, their neurons."""

    path: Path
    id: str
    layers: int
    neurons: int


@dataclass(frozen=True)
class Chosen:
    """A recipe, the name it was asked for by (empty: none), and what it was measured to cost, if it was."""

    recipe: Recipe
    name: str = ""
    measured: Measured | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        measured = self.measured.to_dict() if self.measured else None
        return {"name": self.name or None, "recipe": self.recipe.to_dict(), "measured": measured}


@dataclass(frozen=True, kw_only=True)
class Dial:
    """Arguments of `Model.open` that say what is computed; all None: `exact`.

    `precision`: levels of the parts. `select`: what ranks the neurons of the FFN (plane, lowrank, cascade,
    oracle), or certified; `active`: the share of them that a token has (0.5), at the FFN's level or in
    `bands`, shares at 16, 8 and 4 bits; `candidates`: the share that a cascade's first step leaves (twice
    `active`); `predictor`: the name of one of the store's. `cut`: top, as many of the highest as the shares
    say, or threshold, what reaches the scores that so many neurons reached on the text of the store's
    profile. `prompt_bits`: the FFN's level in prompts (that of the finest of its bands). `recipe`: a file, or
    what one holds. `quality`: exact, high, balanced or fast. `query_heads`: the share of the query heads
    that a decode token has (all).
    """

    precision: PrecisionLike = None
    select: str | None = None
    active: float | str | None = None
    bands: BandsLike | None = None
    prompt_bits: int | None = None
    candidates: float | str | None = None
    predictor: str | None = None
    cut: str | None = None
    recipe: RecipeLike | None = None
    quality: str | None = None
    query_heads: float | str | None = None

    def __post_init__(self) -> None:
        """Refuses what contradicts itself, by name."""
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        for whole in ("recipe", "quality"):
            others = [name for name in given if name != whole and (whole, name) != ("recipe", "predictor")]
            if whole in given and others:
                raise UsageError(f"{whole} says all that is computed: drop it, or {' and '.join(others)}")
        if self.select is not None and self.select not in SELECTS:
            raise UsageError(f"select is {self.select!r}; it must be one of {', '.join(SELECTS)}")
        if self.quality is not None and self.quality not in QUALITIES:
            raise UsageError(f"quality is {self.quality!r}; it must be one of {', '.join(QUALITIES)}")
        if self.recipe is None:
            self._check_parts()

    @classmethod
    def named(cls, recipe: RecipeLike) -> Dial:
        """A recipe, or one of the names that `quality` takes."""
        is_name = isinstance(recipe, str) and recipe in QUALITIES
        return cls(quality=str(recipe)) if is_name else cls(recipe=recipe)

    def _check_parts(self) -> None:
        ranks = self.select in SELECTORS
        of_ranking = {"active": ranks, "bands": ranks, "cut": ranks, "candidates": self.select == "cascade"}
        for name, fits in {**of_ranking, "predictor": self.select in PREDICTED}.items():
            if getattr(self, name) is not None and not fits:
                needed = {"candidates": "cascade", "predictor": " or ".join(PREDICTED)}
                wanted = needed.get(name, ", ".join(SELECTORS))
                shown = "no select" if self.select is None else f"select {self.select!r}"
                raise UsageError(f"{name} goes with select {wanted}, not with {shown}")
        if self.bands is not None and names_ffn(self.precision):
            raise UsageError("bands say the levels of the FFN: drop them, or ffn in precision")
        if self.cut is not None and self.cut not in CUTS:
            raise UsageError(f"cut is {self.cut!r}; it must be one of {', '.join(CUTS)}")
        if self.prompt_bits is not None and integer("prompt_bits", self.prompt_bits) not in LEVELS:
            raise UsageError(f"prompt_bits is {self.prompt_bits!r}; the levels are 4, 8 and 16 bits")

    def choose(self, planes: int, home: Home | None) -> Chosen:
        """The recipe for a store of that many planes. UsageError, StoreError.

        `home` is where the store lies; without one nothing tuned or trained can be asked for.
        """
        chosen = self._whole(planes, home)
        chosen.recipe.check_planes(planes)
        if isinstance(chosen.recipe.ffn, Sparse) and chosen.recipe.ffn.predicts and home is not None:
            again = f"tune the store again (`m2cache tune {home.path} --text FILE`)" if self.quality else ""
            name = predictors.find(home.path, self.predictor or chosen.recipe.predictor, again)
            return Chosen(chosen.recipe.with_predictor(name), chosen.name, chosen.measured)
        return chosen

    def _whole(self, planes: int, home: Home | None) -> Chosen:
        if self.quality not in (None, EXACT):
            if home is None:
                raise UsageError(f"quality {self.quality!r} needs a store: only that has tuned recipes")
            return _tuned(home, str(self.quality))
        if self.recipe is not None:
            return Chosen(read_recipe(self.recipe))
        recipe = self._parts(planes)
        if self.cut == "threshold":
            return Chosen(self._by_threshold(recipe, home))
        return Chosen(recipe, EXACT if recipe == Recipe.dense(LEVELS[planes - 1]) else "")

    def _parts(self, planes: int) -> Recipe:
        attn, bits, head, embed = Precision.parse(self.precision).levels(planes)
        ffn = self._ffn(bits)
        heads = None if self.query_heads is None else (share(self.query_heads, "query_heads"),)
        return Recipe(attn, head, embed, self.prompt_bits or ffn.bits, ffn, heads)

    def _by_threshold(self, recipe: Recipe, home: Home | None) -> Recipe:
        """The same with thresholds in place of shares."""
        if home is None:
            raise UsageError("cut 'threshold' needs a store: only that has a profile of its neurons")
        ffn = recipe.ffn
        if not isinstance(ffn, Sparse) or not isinstance(shares := ffn.layers[0], Shares):
            raise UsageError("cut 'threshold' goes with a ranking of neurons")
        profile = NeuronProfile.load(home.path, home.id, home.layers, home.neurons)
        return replace(recipe, ffn=replace(ffn, layers=above(profile, ffn.paid, shares, home.neurons)))

    def _ffn(self, bits: int) -> Ffn:
        if self.select is None or self.select == "certified":
            return Dense(bits) if self.select is None else Certified(bits)
        active = _ACTIVE if self.active is None else share(self.active, "active")
        bands = one_level(bits) if self.bands is None else parse_bands(self.bands)
        return Sparse(self.select, (Shares(active, bands),), self._candidates(active), self.predictor)

    def _candidates(self, active: float) -> tuple[float, ...]:
        if self.select != "cascade":
            return ()
        if self.candidates is None:
            return (twice(active),)
        return (share(self.candidates, "candidates"),)


def _tuned(home: Home, quality: str) -> Chosen:
    """A recipe of the dial; without what it cost where that was measured with another predictor.

    It is not refused: its shares are as good as they were, and what it costs now is one `eval` away, where
    tuning again takes hours.
    """
    found = tuned.named(home.path, home.id, quality)
    changed = found.changed(home.path)
    if changed:
        _LOG.warning(
            "%s was tuned with another %s than is there now: what it costs is not known; `m2cache eval %s "
            "--text FILE --quality %s` measures it, `m2cache tune` tunes it anew",
            quality,
            " and ".join(changed),
            home.path,
            quality,
        )
    return Chosen(found.recipe, quality, None if changed else found.measured)


def twice(active: float) -> float:
    """The share that a cascade's first step leaves for an active share where nothing is said."""
    return min(1.0, 2 * active)


# Layers by the ten thousands fit.
_LONGEST = 16 << 20


def read_recipe(given: RecipeLike) -> Recipe:
    """A recipe out of a file, or of what one holds. UsageError names the file and what is wrong."""
    if isinstance(given, Recipe):
        return given
    if isinstance(given, Mapping):
        return Recipe.from_dict(given)
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"recipe is {given!r:.60}; a Recipe, what its file holds, or a path is needed")
    path = user_path(given)
    try:
        return _of_file(Recipe.from_dict(json.loads(_read(path), object_pairs_hook=_once)))
    except OSError as error:
        raise UsageError(f"the recipe {path} cannot be read: {error.strerror or error}") from error
    except UsageError as error:
        raise UsageError(f"the recipe {path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the recipe {path} is no JSON") from error


def names_ffn(precision: PrecisionLike) -> bool:
    """Whether a precision gives the FFN a level of its own: not in one number for all parts."""
    levels = Precision.parse(precision)
    return levels.ffn is not None and len({levels.attn, levels.ffn, levels.head, levels.embed}) > 1


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        found = file.read(_LONGEST + 1)
    if len(found) > _LONGEST:
        raise UsageError(f"has more than {_LONGEST >> 20} MiB, which no recipe takes")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ; json would keep the last of two."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(f"the recipe names {name:.60} twice")
        found[name] = value
    return found


def _of_file(recipe: Recipe) -> Recipe:
    if isinstance(recipe.ffn, Sparse) and not isinstance(recipe.ffn.selector, str):
        raise UsageError("its selector is a trace, which ranks neurons by chance: that is for benches alone")
    return recipe
