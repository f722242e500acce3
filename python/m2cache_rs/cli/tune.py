"""`m2cache tune`: recipes with the least loss for their bytes, measured on a text."""

from __future__ import annotations

import json as json_text
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import options, output
from m2cache_rs.cli.texts import read_text
from m2cache_rs.cli.words import interval_words
from m2cache_rs.config import format_size, user_path
from m2cache_rs.errors import M2CacheError, UsageError

if TYPE_CHECKING:
    from m2cache_rs.tune.frontier import Point
    from m2cache_rs.tune.model import Found, Tuning

_DEFAULT_TOKENS = 2048


def tune(
    store: Annotated[
        Path, typer.Argument(parser=user_path, metavar="STORE", help="A store that `m2cache convert` made.")
    ],
    text: Annotated[
        Path,
        typer.Option(
            "--text", parser=user_path, metavar="FILE", help="What to measure recipes on, in UTF-8."
        ),
    ],
    tokens: Annotated[int, typer.Option(help="Only the first N tokens of the text.")] = _DEFAULT_TOKENS,
    bytes_per_token: Annotated[
        str | None,
        typer.Option(help="Bytes of weights that a decode token may touch, in all parts; for example 2GB."),
    ] = None,
    bits: Annotated[
        float | None, typer.Option(help="The same as bits per FFN weight, ranking included; for example 5.5.")
    ] = None,
    max_kl: Annotated[
        float | None, typer.Option(help="The least bytes whose KL is at most X nats a token.")
    ] = None,
    objective: Annotated[
        str,
        typer.Option(help="What is made small: kl (to 16 bits dense), or entropy (M2Cache's search)."),
    ] = "kl",
    select: Annotated[str, typer.Option(help="What ranks neurons: plane, lowrank or cascade.")] = "plane",
    candidates: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Share that the first step of cascade leaves, or what a layer keeps if that is more "
            "(default: twice what the layer keeps).",
        ),
    ] = None,
    predictor: options.Predictor = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of what is not the FFN: 4, 8, 16, or per part, attn=8,head=8,embed=16 (default: 16)."
        ),
    ] = None,
    prompt_bits: Annotated[
        int | None, typer.Option(help="Level of the FFN in prompts (default: 16).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=user_path, metavar="FILE", help="Write the recipe that was asked for to FILE."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Measure anew what an earlier run on this text measured.")
    ] = False,
    force: options.Force = False,
    dram: options.Dram = None,
    cache: options.Cache = None,
    threads: options.Threads = None,
    io: options.Io = "auto",
    json: options.Json = False,
) -> None:
    """Find which neurons should get 16, 8 or 4 bits in which layer, for the least loss at a number of bytes.

    Without a goal the recipes of the dial are made, and kept in the store: `high` has the bytes of uniform 8
    bits, `fast` those of uniform 4, `balanced` lies between. --bytes-per-token, --bits or --max-kl asks for
    one recipe instead. Interrupted, it goes on where it stopped, and what was measured for one goal serves
    another on the same text.
    """
    content = read_text(text)
    from m2cache_rs.tune.goal import Goal
    from m2cache_rs.tune.model import Settings, tuning

    goal = Goal.parse(bytes_per_token, bits, max_kl)
    if out is not None and goal is None:
        raise UsageError(
            "--out takes the recipe of --bytes-per-token, --bits or --max-kl; without one of them recipes go "
            "into the store"
        )
    if out is not None and not _may_be_written(out.resolve()):
        raise UsageError(f"the recipe cannot be written to {out}: a file that may be written is needed")
    settings = Settings(
        objective=objective,
        select=select,
        candidates=candidates,
        predictor=predictor,
        precision=precision,
        prompt_bits=prompt_bits,
        tokens=tokens,
        dram=dram,
        cache=cache,
        threads=threads,
        io=io,
    )
    with (
        output.progress("measuring recipes", None, unit="recipes") as done,
        tuning(
            store,
            content,
            settings,
            lambda count, total: done(count, total=total),
            goal is None,
            restart,
            force,
            output.note,
        ) as run,
    ):
        found = run.dial() if goal is None else {"": run.asked(goal)}
        saved = _saved(lambda: run.save(found) if goal is None else _write(out, found[""]))
    output.print_json(_report(run, found)) if json else _print(run, found)
    if isinstance(saved, M2CacheError):
        raise saved
    if saved is not None:
        output.note(f"wrote {saved}")
    elif not json:
        output.note(
            "the recipe is not kept: --out FILE writes it; measured again on this text it takes seconds"
        )


def _saved(save: Callable[[], Path | None]) -> Path | M2CacheError | None:
    """Where it is, or why it is nowhere: what took hours is printed in any case."""
    try:
        return save()
    except M2CacheError as error:
        return error


def _may_be_written(path: Path) -> bool:
    there = path if path.exists() else path.parent
    return there.is_dir() != path.exists() and os.access(there, os.W_OK)


def _write(out: Path | None, found: Found) -> Path | None:
    if out is None:
        return None
    try:
        out.write_text(json_text.dumps(found.recipe.to_dict(), indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"the recipe cannot be written to {out}: {error.strerror or error}") from error
    return out


def _report(run: Tuning, found: dict[str, Found]) -> dict[str, Any]:
    return {
        "objective": run.settings.objective,
        "selector": run.settings.select,
        "predictor": run.meter.ranking.predictor,
        "tokens": run.tokens,
        "found": {name or "asked": one.to_dict() for name, one in found.items()},
        "uniform": list(map(asdict, run.uniform.values())),
        "frontier": list(map(asdict, run.frontier())),
    }


def _print(run: Tuning, found: dict[str, Found]) -> None:
    rows = [("", "KL (95 %)                         perplexity  bytes per token  FFN bits per weight")]
    rows += [(point.how, _line(point)) for point in run.uniform.values()]
    rows += [(name or "asked for", _line(one.point)) for name, one in found.items()]
    output.print_rows(rows)


def _line(point: Point) -> str:
    loss = f"{point.kl:.2e} ({interval_words(point.interval)})"
    return f"{loss}  {point.perplexity:10.3f}  {format_size(point.bytes):>15}  {point.bits:19.2f}"
