"""`m2cache plan`: where a model's bytes would lie under a budget, and how fast it would run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2cache_rs.cli import options, output
from m2cache_rs.cli.computed import command
from m2cache_rs.cli.words import budget_words, chosen_words, figures, seconds, speed_words
from m2cache_rs.config import LEVELS, format_size, user_path
from m2cache_rs.errors import BudgetError

if TYPE_CHECKING:
    from m2cache_rs.plan.plan import Plan
    from m2cache_rs.plan.regimes import Regimes, Way

Plans = Mapping[int, "Plan | BudgetError"]


@command()
def plan(
    *,
    model: Annotated[
        Path,
        typer.Argument(
            parser=user_path, metavar="STORE|CONFIG", help="A store, or a config.json or its directory."
        ),
    ],
    dram: options.Dram = None,
    ctx: Annotated[int | None, typer.Option(help="Positions to make room for (default: up to 4096).")] = None,
    computed: options.Computed,
    prompt: Annotated[
        int | None,
        typer.Option(help="Tokens of the prompt whose first token is timed (default: 512, or what fits)."),
    ] = None,
    disk_gbps: Annotated[
        float | None,
        typer.Option(metavar="X", help="GB (1e9 bytes) a second that the disk reads, if you know better."),
    ] = None,
    kv: options.Kv = "f16",
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Show where a model's bytes lie under a budget, and the speed to expect; no weight is read.

    For a config.json the store is the one that `m2cache convert` would make of it. The last table compares
    ways to compute the FFN (for --active, or half of the neurons), and says which pays.
    """
    from m2cache_rs.cli.shapes import shape_of
    from m2cache_rs.plan.plan import Request, make
    from m2cache_rs.plan.rates import rates_of
    from m2cache_rs.plan.regimes import Regimes, compared_share
    from m2cache_rs.recipe.dial import Chosen, Dial
    from m2cache_rs.recipe.recipe import Recipe

    shape = shape_of(model)
    request = Request(dram=dram, ctx=ctx, prompt=prompt, threads=threads, kv=kv)
    chosen = shape.choose(Dial(**computed))
    rates = rates_of(model if model.is_dir() else model.parent, disk_gbps, threads)

    @cache
    def attempt(recipe: Recipe) -> Plan | BudgetError:
        try:
            return make(shape, request, Chosen(recipe), rates)
        except BudgetError as error:
            return error

    def speed(recipe: Recipe) -> float | None:
        found = attempt(recipe)
        return None if isinstance(found, BudgetError) else found.expected.tokens_per_second

    found = attempt(chosen.recipe)
    if isinstance(found, BudgetError):
        raise found
    plans = {bits: attempt(Recipe.dense(bits)) for bits in LEVELS[: shape.planes]}
    regimes = Regimes.of(shape, compared_share(chosen.recipe), chosen.recipe, speed)
    _show(replace(found, chosen=chosen), plans, regimes, json)


def _show(chosen: Plan, plans: Plans, regimes: Regimes, json: bool) -> None:
    if json:
        compared = {
            str(bits): {"error": str(one)} if isinstance(one, BudgetError) else one.to_dict()
            for bits, one in plans.items()
        }
        comparison = {**regimes.to_dict(), "advice": regimes.advice()}
        output.print_json({**chosen.to_dict(), "levels": compared, "comparison": comparison})
        return
    output.print_rows(list(_rows(chosen)))
    print()
    for line in _table(plans):
        print(line)
    print()
    for line in _comparison(regimes):
        print(line)


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    expected = plan.expected
    yield "recipe", chosen_words(plan.chosen, plan.subject.architecture.heads)
    yield "memory", budget_words(plan.budget, plan.positions)
    parts = (f"{part} {format_size(size * plan.share)}" for part, size in plan.subject.weights.stored.items())
    yield "fixed weights", f"{plan.share:.0%} of every part: {', '.join(parts)}"
    traffic = expected.traffic
    yield (
        "one token",
        (
            f"{format_size(traffic.dram)} of weights from DRAM, {format_size(traffic.ssd)} from the SSD, "
            f"{format_size(traffic.kv)} of keys and values"
        ),
    )
    yield "expected", f"{speed_words(expected)} of a prompt of {plan.prompt}"
    waited = f" ({seconds(expected.waits)} of them waited for)" if expected.waits else ""
    yield (
        "a token's time",
        (
            f"{seconds(expected.io)} of reads{waited} beside {seconds(expected.compute)} of arithmetic, and "
            f"{seconds(expected.serial)} in between"
        ),
    )
    yield "rates", expected.rates.source
    yield "least budget", f"{format_size(plan.least)} ({plan.least} bytes)"


def _table(plans: Plans) -> Iterator[str]:
    titles = ("weights", 12), ("in memory", 11), ("SSD/token", 12), ("tokens/s", 10), ("bound", 9)
    yield "bits" + "".join(f"{name:>{width}}" for name, width in titles) + f"{'first token':>13}"
    for bits, one in plans.items():
        yield f"{bits:>4}  {one}" if isinstance(one, BudgetError) else _line(bits, one)


def _line(bits: int, plan: Plan) -> str:
    weights, expected = plan.subject.weights, plan.expected
    return (
        f"{bits:>4}{format_size(weights.all - weights.least):>12}{plan.share:>11.0%}"
        f"{format_size(expected.traffic.ssd):>12}{figures(expected.tokens_per_second):>10}{expected.bound:>9}"
        f"{seconds(expected.first_token):>13}"
    )


def _comparison(regimes: Regimes) -> Iterator[str]:
    """What a token touches of the FFN, and how fast it is, by three ways to compute it."""
    share = f"{100 * regimes.active:.3g} %"
    titles = "dense", f"plane {share}", f"lowrank {share}"
    yield "bits" + "".join(f"{name:>19}" for name in titles) + "   (FFN bytes a token touches, tokens/s)"
    for row in regimes.rows:
        yield f"{row.bits:>4}" + "".join(f"{_way(way):>19}" for way in row.ways.values())
    supposed = "" if regimes.known else ", supposed: 5 % of dense at 4 bits"
    predictor = f"{format_size(regimes.predictor)}{supposed}"
    yield f"plane scans {format_size(regimes.scan)} of them; lowrank's predictor takes {predictor}"
    yield f"the fastest: {regimes.advice()}"


def _way(way: Way) -> str:
    return f"{format_size(way.bytes)}{'-' if way.speed is None else figures(way.speed):>7}"
