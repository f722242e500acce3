"""The models that are scored and, under the same cap on memory, the one they are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from m2cache_rs.config import LEVELS
from m2cache_rs.errors import UsageError
from m2cache_rs.eval.run import scoring_bytes
from m2cache_rs.machine.memory import rss
from m2cache_rs.plan.budget import JITTER
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.dial import Chosen
from m2cache_rs.recipe.recipe import Dense, Recipe, Sparse
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.session import Model

_BEST = Recipe.dense(16)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options as `Model.open` takes them, but for what is computed."""

    dram: int | str | None = None
    cache: int | str | None = None
    ctx: int | None = None
    verify: str = "first"
    threads: int | None = None
    kv: str = "f16"
    io: str = "auto"


@contextmanager
def open_all(
    opened: Opened, asked: Asked, recipes: Sequence[Chosen], characters: int
) -> Iterator[tuple[list[Model], Model | None, str]]:
    """A model for each recipe, what to compare them with (the same store at its best), and in words what that
    is.

    `characters` is the length of the text. The models share one open store, its weight cache and threads; the
    reference, too, where it keeps keys and values as they do. A cap holds for all and for the scoring: a
    reference of its own is left what it needs at least.
    """
    scoring = scoring_bytes(opened.architecture.vocab, characters, len(recipes) + 1)
    wanted = [one.recipe for one in recipes]
    itself = asked.kv == "f32" and _BEST in wanted
    compared = [_BEST] if opened.planes == 3 and not itself else []
    apart = [] if asked.kv == "f32" else compared
    of_best = replace(asked, cache=None, kv="f32")
    later = sum(_least(opened, one, of_best) for one in apart)
    with ExitStack() as stack:
        together = wanted if apart else [*wanted, *compared]
        first = stack.enter_context(_open(opened, asked, together, scoring + later))
        models = [first, *map(first.serving, together[1:])]
        # What it has taken already is measured with the process.
        taken = scoring + max(0, first.budget.ahead - max(0, rss() - first.budget.base))
        models += [stack.enter_context(_open(opened, of_best, [one], taken)) for one in apart]
        scored = models[: len(wanted)]
        if itself:
            yield scored, scored[wanted.index(_BEST)], f"itself: this is the store {_AT_BEST}"
        elif compared:
            yield scored, models[-1], f"the same store {_AT_BEST}"
        else:
            yield scored, None, _NONE


_AT_BEST = "dense at 16 bits, keys and values in f32"
_NONE = "none: the store leaves out the plane 'low' that 16 bits need (convert with --planes all)"


def _open(opened: Opened, asked: Asked, recipes: Sequence[Recipe], reserve: int) -> Model:
    """A model that computes by all of them, batch by batch."""
    return Model.open(
        opened,
        asked.dram,
        asked.cache,
        asked.ctx,
        verify=asked.verify,
        threads=asked.threads,
        kv=asked.kv,
        io=asked.io,
        reserve=reserve,
        recipe=recipes[0],
        serves=recipes[1:],
        sequences=len(recipes),
    )


def _least(opened: Opened, recipe: Recipe, asked: Asked) -> int:
    """What a model takes at least."""
    costs = opened.costs(recipe, "auto", opened.positions(asked.ctx), asked.threads, asked.kv)
    return costs.ahead + opened.weights(recipe).least + JITTER


def beside(opened: Opened, recipes: Sequence[Recipe]) -> list[tuple[str, str, Chosen]]:
    """What a picture shows beside recipes, as label, group, recipe: all uniform levels that are stored, and
    exact top-k with the recipes' shares where the plane that it ranks by is stored."""
    found = [(f"{bits} bits", "uniform", Chosen(Recipe.dense(bits))) for bits in LEVELS[: opened.planes]]
    ranked = [(one, one.ffn) for one in recipes if isinstance(one.ffn, Sparse) and _has_shares(one.ffn)]
    for recipe, ffn in ranked if opened.planes == 3 else ():
        exact = replace(recipe, ffn=Sparse("oracle", ffn.layers))
        if all(exact != one.recipe for _, _, one in found):
            found.append((label_of(exact), "oracle", Chosen(exact)))
    return found


def free_bytes(opened: Opened, recipe: Recipe) -> float:
    """What a token would touch if ranking its neurons cost nothing. UsageError where none are ranked."""
    if not isinstance(recipe.ffn, Sparse):
        raise UsageError("all neurons are computed: there is no ranking")
    chosen = replace(recipe, ffn=Sparse("lowrank", recipe.ffn.layers))  # whose predictor is not counted
    return opened.weights(chosen).token_bytes


def _has_shares(ffn: Sparse) -> bool:
    """Thresholds are those of one selector's scores, and mean nothing to another's."""
    return all(isinstance(cut, Shares) for cut in ffn.layers)


def label_of(recipe: Recipe) -> str:
    """A few words for a table or a picture."""
    if recipe.query_heads is not None:
        heads = f"{100 * sum(recipe.query_heads) / len(recipe.query_heads):.3g} % of heads"
        return f"{label_of(replace(recipe, query_heads=None))}, {heads}"
    ffn = recipe.ffn
    if not isinstance(ffn, Sparse):
        words = f"{ffn.bits} bits"
        return words if isinstance(ffn, Dense) else f"certified {words}"
    shares = [cut.active if isinstance(cut, Shares) else cut.most for cut in ffn.layers]
    mean = f"{100 * sum(shares) / len(shares):.3g} %"
    if not _has_shares(ffn):
        return f"{ffn.paid} at most {mean}"
    return f"{ffn.paid} {mean} {'/'.join(f'{100 * one:.3g}' for one in _mean_bands(ffn))}"


def _mean_bands(ffn: Sparse) -> list[float]:
    """Over the layers."""
    found = [cut.bands for cut in ffn.layers if isinstance(cut, Shares)]
    return [sum(band) / len(found) for band in zip(*found, strict=True)]
