"""`m2cache profile`: what a store's neurons do on a text, predictors of them, and a store hot-first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import options, output
from m2cache_rs.cli.texts import read_text
from m2cache_rs.config import format_size, user_path
from m2cache_rs.errors import UsageError

if TYPE_CHECKING:
    from m2cache_rs.predict.run import Wish
    from m2cache_rs.runtime.opening import Opened
    from m2cache_rs.runtime.session import Model


def profile(
    store: Annotated[
        Path, typer.Argument(parser=user_path, metavar="STORE", help="A store that `m2cache convert` made.")
    ],
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", parser=user_path, metavar="FILE", help="A text of the kind that will be run, in UTF-8."
        ),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Only the first N tokens (default: 4096).")] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="Rank of the predictors (default: what takes 6 % of the FFN at 4 bits, or 64)."),
    ] = None,
    no_predictors: Annotated[
        bool, typer.Option("--no-predictors", help="Statistics and thresholds alone.")
    ] = False,
    trained: Annotated[
        bool, typer.Option("--trained", help="Train a predictor as well (needs the extra `train`).")
    ] = False,
    query_heads: Annotated[
        bool,
        typer.Option(
            "--query-heads", help="Learn which query heads matter as well, for generate --query-heads."
        ),
    ] = False,
    reorder: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="DST",
            help="Write a new store with each layer's hottest neurons first; without --text by the profile "
            "that is there.",
        ),
    ] = None,
    force: options.Force = False,
    dram: options.Dram = None,
    cache: options.Cache = None,
    io: options.Io = "auto",
    verify: options.Verify = "first",
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Measure which neurons matter on a text, how that changes and what foretells it; keep it with the store.

    Written into STORE/profiles/: statistics and thresholds (neurons.json), low-rank predictors, and with
    --query-heads what chooses query heads (query-heads.safetensors). The text runs dense at the highest level
    stored, as new tokens in windows of 512.
    """
    if query_heads and text is None:
        raise UsageError("--query-heads learns from a text: name one with --text")
    kinds = _kinds(no_predictors, trained, rank)
    if text is None and reorder is None:
        raise UsageError("there is nothing to do: name a --text (or --reorder, by a profile that is there)")
    content = None if text is None else read_text(text)
    from m2cache_rs.machine.memory import peak_rss
    from m2cache_rs.runtime.opening import Opened

    opened = Opened(store)
    if reorder is not None:
        from m2cache_rs.convert.reorder import check_new

        check_new(reorder, opened.path)
    report: dict[str, Any] = {}
    with output.progress("profiling", None, unit="steps") as show:

        def told(what: str, done: int, total: int) -> None:
            show(done, total=total, label=what)

        if content is not None:
            from m2cache_rs.eval.windows import most_tokens
            from m2cache_rs.predict.run import TOKENS, Wish

            most = most_tokens(content, TOKENS if tokens is None else tokens)
            wish = Wish(most, kinds, rank, force, query_heads)
            asked = (dram, cache, io, verify, threads)
            report |= _make(opened, content, wish, asked, told)
        if reorder is not None:
            report["reordered"] = _reorder(opened, reorder, told)
    report["peak_rss_bytes"] = peak_rss()
    output.print_json(report) if json else _print(report)


def _kinds(no_predictors: bool, trained: bool, rank: int | None) -> tuple[str, ...]:
    if no_predictors and (trained or rank is not None):
        raise UsageError("--no-predictors leaves nothing for --trained or --rank to act on: drop one of them")
    return () if no_predictors else ("svd", "trained") if trained else ("svd",)


def _make(
    opened: Opened, text: str, wish: Wish, asked: tuple[Any, ...], told: Callable[[str, int, int], None]
) -> dict[str, Any]:
    from m2cache_rs.predict import heads, run
    from m2cache_rs.predict.memory import profile_bytes, query_heads_bytes

    arch = opened.architecture
    wish = wish.checked(arch)
    reserves = [profile_bytes(arch, wish.tokens, wish.rank or 0, wish.kinds, len(text))]
    reserves += [query_heads_bytes(arch, wish.tokens, len(text))] if wish.query_heads else []
    _check_cap(opened, asked, reserves)
    with _open(opened, asked, reserves[0]) as model:
        report = run.make(opened, model, text, wish, told)
    for reserve in reserves[1:]:
        with _open(opened, asked, reserve) as model:
            report["query_heads"] = heads.make(opened, model, text, wish.tokens, told)
    return report


def _check_cap(opened: Opened, asked: tuple[Any, ...], reserves: list[int]) -> None:
    """BudgetError names the least with which one model opens after the other."""
    from m2cache_rs.machine.memory import peak_rss
    from m2cache_rs.plan import wish
    from m2cache_rs.recipe.dial import Dial

    dram, cache, _, _, threads = asked
    recipe = opened.choose(Dial()).recipe
    needs = [
        (opened.weights(recipe), opened.costs(recipe, "auto", _window(opened), threads, "f32", reserve))
        for reserve in reserves
    ]
    wish.check_in_turn(wish.Wish.parse(dram, cache, 0), needs, peak_rss())


def _window(opened: Opened) -> int:
    from m2cache_rs.eval.windows import WINDOW

    return opened.positions(min(WINDOW, opened.context))


def _open(opened: Opened, asked: tuple[Any, ...], reserve: int) -> Model:
    from m2cache_rs.runtime.session import Model

    dram, cache, io, verify, threads = asked
    return Model.open(
        opened,
        dram,
        cache,
        _window(opened),
        verify=verify,
        threads=threads,
        kv="f32",
        io=io,
        reserve=reserve,
    )


def _reorder(opened: Opened, target: Path, told: Callable[[str, int, int], None]) -> dict[str, Any]:
    from m2cache_rs.predict.hot import hot_first
    from m2cache_rs.recipe.neurons import NeuronProfile

    arch = opened.architecture
    found = NeuronProfile.load(opened.path, opened.manifest["id"], arch.layers, arch.ffn)
    id, moved = hot_first(opened, found, target, lambda done, total: told("moving neurons", done, total))
    for name, why in moved.left.items():
        output.note(f"warning: {name} did not move to {target}: {why}")
    return {"path": str(target), "id": id, "carried": moved.carried, "left": list(moved.left)}


def _print(report: dict[str, Any]) -> None:
    """Rows, then a table by share, means over layers."""
    output.print_rows([*_facts(report), ("peak memory", format_size(report["peak_rss_bytes"]))])
    if "tokens" not in report:
        return
    titles = ["active", "overlap", "16 bits", "8 bits", "4 bits", "hot tenth", "k_max", "plane"]
    columns = [report["shares"], report["overlap"], *zip(*report["band_overlap"], strict=True)]
    columns += [report["skew_members"], report["most"]["plane"], report["plane_recall"]]
    for kind in ("plane_held_out", "svd", "trained"):
        if kind in report:
            titles.append({"plane_held_out": "plane, new"}.get(kind, f"{kind}, new"))
            columns.append(report[kind] if kind == "plane_held_out" else report[kind]["recall"])
    print("\nshares, means over layers; overlap with the token before (the set, then its bands); recall:")
    print("  ".join(f"{title:>11}" for title in titles))
    for row in zip(*columns, strict=True):
        print("  ".join(f"{_cell(value):>11}" for value in row))


def _cell(value: float) -> str:
    return f"{value:.3f}" if value <= 1 else f"{value:.0f}"


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if "tokens" in report:
        facts += [
            ("profile", report["profile"]),
            ("text", f"{report['tokens']} tokens, dense at {report['bits']} bits"),
            ("above 0", f"{report['nonzero']:.1%} of all |h|"),
            ("hottest tenth", f"{report['skew_mass']:.1%} of the sum of |h|"),
        ]
    if "rank" in report:
        share = f"{report['predictor_share']:.1%} of the FFN's bytes at 4 bits"
        learned = f"{report['learned']} tokens learned from, the others are new"
        two = ", of gate and up" if report["outputs"] == 2 else ""
        facts.append(("predictors", f"rank {report['rank']}{two}, {share}; {learned}"))
    if "query_heads" in report:
        told = zip(report["query_heads"]["shares"], report["query_heads"]["recall"], strict=True)
        recall = ", ".join(f"{one:.1%} at {100 * share:.3g} %" for share, one in told)
        facts.append(
            ("query heads", f"{report['query_heads']['path']}; of what exact choices have, new: {recall}")
        )
    if "reordered" in report:
        carried = ", ".join(["the profile", *report["reordered"]["carried"]])
        words = f"{report['reordered']['path']}, id {report['reordered']['id']}; {carried} moved along"
        facts.append(("hot-first", words))
    return facts
