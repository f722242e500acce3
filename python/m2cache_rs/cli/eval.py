"""`m2cache eval`: quality and bytes per token of a store's recipes, on a text."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import options, output
from m2cache_rs.cli.computed import command
from m2cache_rs.cli.texts import read_text
from m2cache_rs.cli.words import chosen_words, interval_words
from m2cache_rs.config import format_size, user_path
from m2cache_rs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from m2cache_rs.eval.gguf import GgufModel
    from m2cache_rs.models import Architecture
    from m2cache_rs.recipe.dial import Chosen, Dial
    from m2cache_rs.runtime.opening import Opened


@command(quality=options.Qualities, recipe=options.Recipes)
def evaluate(
    *,
    store: Annotated[
        Path, typer.Argument(parser=user_path, metavar="STORE", help="A store that `m2cache convert` made.")
    ],
    text: Annotated[
        Path,
        typer.Option("--text", parser=user_path, metavar="FILE", help="The text to be predicted, in UTF-8."),
    ],
    tokens: Annotated[
        int | None, typer.Option(help="Only the first N tokens (default: the whole text).")
    ] = None,
    computed: options.Computed,
    dram: options.Dram = None,
    cache: options.Cache = None,
    ctx: Annotated[int | None, typer.Option(help="Positions of a window (default: 512).")] = None,
    io: options.Io = "auto",
    verify: options.Verify = "first",
    kv: options.Kv = "f16",
    threads: options.Threads = None,
    gguf: Annotated[
        list[Path] | None,
        typer.Option(
            "--gguf",
            parser=user_path,
            metavar="FILE",
            help="A GGUF file of the same model: llama.cpp runs it beside (the `peers` extra). Repeatable.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="FILE",
            help="Draw KL against bytes (.png, .svg, .pdf); uniform levels and exact top-k are run beside.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure perplexity, bits per byte, bytes, and the distance from the same store at its best.

    That is dense at 16 bits, keys and values in f32. --recipe and --quality may be repeated: all recipes run
    beside each other and share its logits. Bytes are those that a new token touches, each counted as if it
    were alone.
    """
    if plot is not None:
        from m2cache_rs.eval.plot import check

        check(plot)
    if gguf and dram is not None:
        raise UsageError("dram caps this process, and llama.cpp runs in it (--gguf): leave one of them away")
    content = read_text(text)
    from m2cache_rs.eval.models import Asked, free_bytes, open_all
    from m2cache_rs.eval.run import evaluate_all
    from m2cache_rs.eval.windows import WINDOW
    from m2cache_rs.machine.memory import peak_rss
    from m2cache_rs.recipe.dial import Dial
    from m2cache_rs.runtime.opening import Opened

    opened = Opened(store)
    parts = dict(computed)
    several = [parts.pop(name) or [] for name in ("recipe", "quality")]
    rows = _rows_of(opened, _dials(Dial(**parts), *several), plot is not None)
    window = opened.positions(min(WINDOW, opened.context) if ctx is None else ctx)
    asked = Asked(dram=dram, cache=cache, ctx=window, verify=verify, threads=threads, kv=kv, io=io)
    # How many tokens there are is known at the end only; four bytes a token is English. The bar comes first:
    # what it imports is then part of the process that the budget measures.
    total = (tokens or max(1, len(content) // 4)) * (len(rows) + len(gguf or []))
    with (
        output.progress("evaluating", total, unit="tokens") as done,
        _peers(gguf or [], window, opened.architecture, threads) as peers,
        open_all(opened, asked, [one for _, _, one in rows], len(content)) as (models, reference, words),
    ):
        if plot is not None and reference is None:
            raise UsageError(f"a picture needs a reference, and there is {words}")
        scores = evaluate_all(models, content, tokens, reference, done, window, peers)
    reports = [
        {
            "label": label,
            "group": group,
            "precision": asdict(chosen.recipe.precision),
            **chosen.to_dict(),
            "kv": kv,
            "reference": words,
            **score,
            **({"free_bytes_per_token": free_bytes(opened, chosen.recipe)} if group == "oracle" else {}),
        }
        for (label, group, chosen), score in zip(rows, scores, strict=False)
    ]
    reports += [
        {"label": path.stem, "group": "llama.cpp", "recipe": None, "kv": "f32", "reference": words, **score}
        for path, score in zip(gguf or [], scores[len(rows) :], strict=True)
    ]
    if plot is not None:
        from m2cache_rs.eval.plot import draw

        draw(plot, f"{store.name}, {reports[0]['tokens']} tokens of {text.name}", reports)
    heads = opened.architecture.heads
    said = [chosen_words(chosen, heads) for _, _, chosen in rows] + ["run by llama.cpp"] * len(gguf or [])
    _show(reports, said, peak_rss(), json)


@contextmanager
def _peers(
    paths: Sequence[Path], window: int, spec: Architecture, threads: int | None
) -> Iterator[list[GgufModel]]:
    """llama.cpp's models."""
    from m2cache_rs.eval.gguf import GgufModel

    with ExitStack() as stack:
        yield [stack.enter_context(GgufModel(path, window, spec, threads)) for path in paths]


def _dials(parts: Dial, recipes: Sequence[Path], qualities: Sequence[str]) -> list[tuple[str, Dial]]:
    """What is asked for, with labels: files and named recipes, or what the parts say; not both."""
    found = [(path.stem, replace(parts, recipe=path)) for path in recipes]
    found += [(name, replace(parts, quality=name)) for name in qualities]
    return found or [("", parts)]


def _rows_of(
    opened: Opened, dials: Sequence[tuple[str, Dial]], plotted: bool
) -> list[tuple[str, str, Chosen]]:
    """Label, group and recipe of every row: for a picture uniform levels and exact top-k, too."""
    from m2cache_rs.eval.models import beside

    chosen = [(label, opened.choose(dial)) for label, dial in dials]
    rows = [(label or short_label(one), "ours", one) for label, one in chosen]
    if not plotted:
        return rows
    others = beside(opened, [one.recipe for _, one in chosen])
    known = [one.recipe for _, _, one in others]
    return [row for row in rows if row[2].recipe not in known] + others


def short_label(chosen: Chosen) -> str:
    """A few words for a table or a picture."""
    from m2cache_rs.eval.models import label_of

    return chosen.name or label_of(chosen.recipe)


def _show(reports: list[dict[str, Any]], said: list[str], peak: int, json: bool) -> None:
    if json and len(reports) == 1:
        output.print_json({**reports[0], "peak_rss_bytes": peak})
    elif json:
        output.print_json({"recipes": reports, "peak_rss_bytes": peak})
    elif len(reports) == 1:
        output.print_rows([*_rows(reports[0], said[0]), ("peak memory", format_size(peak))])
    else:
        _print_table(reports, said, peak)


def _rows(report: dict[str, Any], said: str) -> list[tuple[str, str]]:
    rows = [
        ("recipe", said),
        ("keys and values", report["kv"]),
        ("predicted", f"{report['tokens']} tokens, {report['bytes']} bytes"),
        ("perplexity", f"{report['perplexity']:.4f}"),
        ("bits per byte", f"{report['bits_per_byte']:.4f}"),
        ("reference", report["reference"]),
    ]
    if report["mean_kl"] is not None:
        rows += [
            ("mean KL", f"{report['mean_kl']:.3e} nats (95 %: {interval_words(report['kl_interval'])})"),
            ("top-1 agreement", f"{report['top1_agreement']:.2%}"),
        ]
    ffn = f"{format_size(report['ffn_bytes_per_token'])}, {report['bits_per_weight']:.3g} bits a weight"
    ffn += f"; {sum(report['active']):.1%} of neurons"
    return [
        *rows,
        ("needed per token", f"{format_size(report['needed_bytes_per_token'])} (of the FFN {ffn})"),
        ("read per token", f"{format_size(report['read_bytes_per_token'])} (batches of 32 share reads)"),
    ]


def _print_table(reports: list[dict[str, Any]], said: list[str], peak: int) -> None:
    """A line for each recipe, under what they share."""
    first = reports[0]
    shared = [
        ("predicted", f"{first['tokens']} tokens, {first['bytes']} bytes"),
        ("keys and values", first["kv"]),
        ("reference", first["reference"]),
        ("peak memory", format_size(peak)),
    ]
    output.print_rows(shared)
    width = max(len(one["label"]) for one in reports)
    print(f"\n{'':{width}}  perplexity     mean KL   95 % interval          top-1   per token  bits/weight")
    for one, words in zip(reports, said, strict=True):
        print(output.one_line(f"{one['label']:{width}}  {_line(one)}   {words}"))


def _line(report: dict[str, Any]) -> str:
    compared = f"{'':>35}{'':>8}"
    if report["mean_kl"] is not None:
        interval = interval_words(report["kl_interval"])
        compared = f"{report['mean_kl']:>12.3e}   {interval:<22}{report['top1_agreement']:>6.2%}"
    size = format_size(report["needed_bytes_per_token"])
    return f"{report['perplexity']:>10.4f}{compared}{size:>12}{report['bits_per_weight']:>13.3g}"
