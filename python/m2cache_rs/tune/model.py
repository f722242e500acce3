"""The tuner on a store: what is opened, measured, found and kept."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from m2cache_rs import _core
from m2cache_rs.config import LEVELS, PrecisionLike, format_size
from m2cache_rs.errors import UsageError
from m2cache_rs.eval.run import scoring_bytes
from m2cache_rs.eval.windows import most_tokens, windows
from m2cache_rs.machine.memory import peak_rss
from m2cache_rs.plan.wish import Wish, check_in_turn
from m2cache_rs.recipe import profiles, tuned
from m2cache_rs.recipe.cut import share
from m2cache_rs.recipe.dial import Dial, names_ffn
from m2cache_rs.recipe.recipe import Dense, Recipe
from m2cache_rs.recipe.tuned import Measured, Tuned
from m2cache_rs.recipe.worth import check_text
from m2cache_rs.runtime.cost import ffn_weights
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.session import Model
from m2cache_rs.tune.frontier import Point
from m2cache_rs.tune.goal import Goal
from m2cache_rs.tune.journal import Journal
from m2cache_rs.tune.layers import FIXED_BANDS, Shares
from m2cache_rs.tune.meter import Meter, cut
from m2cache_rs.tune.ranking import SELECTORS, Ranking
from m2cache_rs.tune.reference import predictions, scratch
from m2cache_rs.tune.run import OBJECTIVES, Tuner
from m2cache_rs.tune.text import Text

WINDOW = 256
_LOG = logging.getLogger("m2cache_rs")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `m2cache tune` is asked; see the command."""

    objective: str = "kl"
    select: str = "plane"
    candidates: float | str | None = None
    predictor: str | None = None
    precision: PrecisionLike = None
    prompt_bits: int | None = None
    tokens: int = 2048
    dram: int | str | None = None
    cache: int | str | None = None
    threads: int | None = None
    io: str = "auto"

    def __post_init__(self) -> None:
        for name, given, known in (
            ("objective", self.objective, OBJECTIVES),
            ("select", self.select, SELECTORS),
        ):
            if given not in known:
                raise UsageError(f"{name} is {given!r}; it must be one of {', '.join(known)}")
        if names_ffn(self.precision):
            raise UsageError(
                "precision names ffn, whose levels are what tune finds: name attn, head and embed alone (and "
                "prompt_bits for the FFN in prompts)"
            )


@dataclass(frozen=True)
class Found:
    """A recipe that answers a question, and what it was measured to cost."""

    recipe: Recipe
    point: Point

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        measured = asdict(self.point)
        del measured["shares"]  # the recipe has them
        return {"recipe": self.recipe.to_dict(), "measured": measured}


class Tuning:
    """A store under the tuner: made by `tuning`, used inside it."""

    def __init__(
        self,
        opened: Opened,
        tuner: Tuner,
        meter: Meter,
        settings: Settings,
        digest: str,
        files: Mapping[str, str],
    ) -> None:
        self.opened, self.tuner, self.meter, self.settings = opened, tuner, meter, settings
        self.digest, self.files = digest, files
        self.uniform = tuner.uniform()

    @property
    def tokens(self) -> int:
        """Rows that every recipe was measured on."""
        return self.meter.text.rows

    def frontier(self) -> list[Point]:
        """What no other recipe that was measured beats."""
        return self.tuner.frontier()

    def asked(self, goal: Goal) -> Found:
        """The recipe for a goal."""
        if goal.kl is not None:
            return self._found(self.tuner.at_most(goal.kl))
        budget = self._bytes_of(goal.bits or 0) if goal.bytes is None else goal.bytes
        if budget < self.tuner.least:
            raise self._too_small(goal)
        return self._found(self.tuner.within(budget))

    def dial(self) -> dict[str, Found]:
        """The named recipes: what uniform 8 bits touch, what uniform 4 touch, and half way between."""
        coarse, fine = self.uniform[4].bytes, self.uniform[8].bytes
        budgets = {"high": fine, "balanced": (fine + coarse) / 2, "fast": coarse}
        return {name: self._found(self.tuner.within(size)) for name, size in budgets.items()}

    def save(self, found: dict[str, Found]) -> Path:
        """Keeps named recipes in the store's profiles. UsageError, StoreIOError."""
        _check_files(self.opened, self.meter.base, self.meter.ranking, self.files)
        named = {name: self._tuned(one) for name, one in found.items()}
        return tuned.save(self.opened.path, self.opened.manifest["id"], named)

    def _found(self, point: Point) -> Found:
        return Found(self.meter.recipe(point.shares), point)

    def _tuned(self, found: Found) -> Tuned:
        files = self.files if found.recipe.predictor else {}
        return Tuned(found.recipe, self._measured(found.point), files)

    def _measured(self, point: Point) -> Measured:
        return Measured(
            point.kl, point.interval, point.perplexity, point.bytes, point.bits, self.tokens, self.digest
        )

    def _bytes_of(self, bits: float) -> float:
        """Bytes a token whose FFN touches so many bits of each of its weights."""
        coarse = self.uniform[4]
        return coarse.bytes + (bits - coarse.bits) * ffn_weights(self.opened.architecture) / 8

    def _too_small(self, goal: Goal) -> UsageError:
        """Names the least in the unit of the goal, and what else there is to lower."""
        least = self.tuner.least
        if goal.bits is not None:
            over = (least - self._bytes_of(goal.bits)) / (ffn_weights(self.opened.architecture) / 8)
            bits = math.ceil(100 * (goal.bits + over)) / 100
            return UsageError(
                f"no recipe touches as few as {goal.bits:g} bits per FFN weight; {bits:g} is the least"
            )
        parts = self.opened.weights(self.meter.base).parts
        rest = format_size(sum(parts[part] for part in ("attn", "head", "embed")))
        return UsageError(
            f"no recipe touches as few as {format_size(goal.bytes or 0)} a token; {math.ceil(least)} bytes "
            f"({format_size(least)}) is the least, {rest} of them for attention, head and embedding: less "
            "with --precision attn=4,head=4"
        )


@contextmanager
def tuning(
    store: str | Path,
    text: str,
    settings: Settings,
    progress: Progress,
    keeps: bool = False,
    restart: bool = False,
    force: bool = True,
    tell: Callable[[str], None] = _LOG.info,
) -> Iterator[Tuning]:
    """Opens the store, runs it at its best over the text, and measures the uniform levels.

    `keeps`: what is found will be saved in the store, which is tried first. What an earlier run measured (the
    store's journal) is not measured again, unless `restart`; `tell` is told of it. Without `force` a text is
    refused that is too short, or shorter than that of the recipes that would be replaced.

    `progress` is told how many recipes were measured, and how many will be at most. UsageError where the
    store is not stored to 16 bits, or the text is too short; StoreIOError where the reference's predictions
    (4 bytes a token and entry of the vocabulary) find no room in the temporary directory.
    """
    opened = Opened(store)
    if opened.planes < len(LEVELS):
        raise UsageError(
            f"{opened.path} has up to {LEVELS[opened.planes - 1]} bits: recipes are measured against "
            "16 bits, convert with --planes all"
        )
    base, ranking = _resolved(opened, settings)
    reserve = scoring_bytes(opened.architecture.vocab, len(text))

    positions = min(WINDOW, opened.context)

    def open_with(kv: str, reserve: int, recipe: Recipe, *others: Recipe) -> Model:
        return Model.open(
            opened,
            settings.dram,
            settings.cache,
            ctx=positions,
            threads=settings.threads,
            io=settings.io,
            kv=kv,
            reserve=reserve,
            recipe=recipe,
            serves=others,
        )

    best_of_all, recipes = Recipe.dense(LEVELS[-1]), (base, widest(base, ranking))
    _check_cap(opened, settings, positions, reserve, {"f32": [best_of_all], "f16": recipes})
    files = tuned.files_of(opened.path, recipes[-1])
    with scratch(_reference_bytes(opened, text, settings)) as kept, ExitStack() as stack:
        with open_with("f32", reserve, best_of_all) as best:
            found = Text(tuple(windows(best, text, settings.tokens, WINDOW)))
            if not found.windows:
                raise UsageError("the text has no token to predict: two tokens are the least")
            if not force:
                check_text(found.rows, opened.manifest["id"], [tuned.path_of(opened.path)] if keeps else [])
            if keeps:
                profiles.made(opened.path)
            about = _about(opened, found, base, ranking, files)
            journal = stack.enter_context(Journal(opened.path, about, restart))
            stack.enter_context(_resumable(journal, tell))
            reference = predictions(best, found, kept)
        # The text is tokenised, and what that took is part of the process.
        with open_with("f16", scoring_bytes(opened.architecture.vocab, 0), *recipes) as model:
            unchanged = partial(_check_files, opened, base, ranking, files)
            meter = Meter(found, base, ranking, model, reference, journal, unchanged)
            size = _size(opened, meter)
            tuner = Tuner(meter, size, opened.planes, settings.objective, ranking.bytes)
            counted = iter(range(1, 1 << 62))
            meter.progress = lambda: progress(next(counted), tuner.steps(3))
            yield Tuning(opened, tuner, meter, settings, hashlib.sha256(text.encode()).hexdigest(), files)


def _check_files(opened: Opened, base: Recipe, ranking: Ranking, files: Mapping[str, str]) -> None:
    """UsageError where what ranks neurons is no longer what the journal and the recipes say it was."""
    now = tuned.files_of(opened.path, widest(base, ranking))
    for name in sorted({*now, *files}):
        if now.get(name) != files.get(name):
            path = opened.path / profiles.FOLDER / name
            raise UsageError(f"{path} was replaced while it was measured with: run tune again")


def _check_cap(
    opened: Opened, settings: Settings, positions: int, reserve: int, runs: dict[str, Sequence[Recipe]]
) -> None:
    """BudgetError names the least with which the reference runs and, when that is closed, the recipes."""
    wish = Wish.parse(settings.dram, settings.cache, reserve)
    needs = [
        (
            opened.weights(first, others),
            opened.costs(first, "auto", positions, settings.threads, kv, reserve, serves=others),
        )
        for kv, (first, *others) in runs.items()
    ]
    check_in_turn(wish, needs, peak_rss())


@contextmanager
def _resumable(journal: Journal, tell: Callable[[str], None]) -> Iterator[None]:
    """Tells what was found, and of an interrupt that it costs little."""
    if len(journal):
        tell(f"{len(journal)} recipes were measured before on this text: going on with {journal.path}")
    try:
        yield
    except KeyboardInterrupt:
        if journal.is_kept:
            without = ", without --restart," if journal.restarted else ""
            tell(f"{len(journal)} recipes are measured and kept: the same command{without} goes on with them")
        raise


def _about(
    opened: Opened, text: Text, base: Recipe, ranking: Ranking, files: Mapping[str, str]
) -> dict[str, Any]:
    """All that a measurement depends on beside the shares of layers: no goal, and nothing of the machine.

    The version stands still while kernels change; the compiled core's file does not.
    """
    return {
        "generator": f"m2cache-rs {_core.__version__}",
        "core": profiles.digest(Path(_core.__file__)),
        "store": opened.manifest["id"],
        "text": text.digest,
        "base": base.to_dict(),
        "selector": ranking.selector,
        "candidates": ranking.candidates,
        "files": dict(files),
    }


def widest(base: Recipe, ranking: Ranking) -> Recipe:
    """All neurons, chosen one by one, some at every level: with `base` enough for all that is searched."""
    return replace(base, ffn=ranking.sparse([cut(FIXED_BANDS)]))


def _resolved(opened: Opened, settings: Settings) -> tuple[Recipe, Ranking]:
    """What all recipes have in common, found before hours are spent. UsageError, StoreError."""
    best = LEVELS[opened.planes - 1]
    dial = Dial(
        precision=settings.precision,
        select=settings.select,
        prompt_bits=settings.prompt_bits or best,
        candidates=settings.candidates,
        predictor=settings.predictor,
    )
    recipe = dial.choose(opened.planes, opened.home).recipe
    predictor = opened.predictor(recipe)
    left = None if settings.candidates is None else share(settings.candidates, "candidates")
    read = 0 if predictor is None else predictor.bytes()
    return replace(recipe, ffn=Dense(best)), Ranking(settings.select, recipe.predictor, left, read)


def _size(opened: Opened, meter: Meter) -> Callable[[Sequence[Shares]], float]:
    """Bytes that a token touches by shares."""

    def size(shares: Sequence[Shares]) -> float:
        return float(opened.weights(meter.recipe(shares)).token_bytes)

    return size


def _reference_bytes(opened: Opened, text: str, settings: Settings) -> int:
    return most_tokens(text, settings.tokens) * opened.architecture.vocab * 4
