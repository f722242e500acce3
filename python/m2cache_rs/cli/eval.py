"""`m2cache eval`: quality and bytes per token of a store, on a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from m2cache_rs.cli import options, output
from m2cache_rs.config import PARTS, format_size, user_path
from m2cache_rs.errors import UsageError


def evaluate(
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
    precision: options.Precision = None,
    dram: options.Dram = None,
    cache: options.Cache = None,
    ctx: Annotated[int | None, typer.Option(help="Positions of a window (default: 512).")] = None,
    io: options.Io = "auto",
    verify: options.Verify = "first",
    kv: options.Kv = "f16",
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Measure perplexity, bits per byte, and the distance from the same store at its best.

    That is dense at 16 bits, keys and values in f32.
    """
    content = _read(text)
    from m2cache_rs.eval.pair import Asked, open_pair
    from m2cache_rs.eval.run import evaluate as score
    from m2cache_rs.eval.windows import WINDOW
    from m2cache_rs.runtime.opening import Opened

    opened = Opened(store)
    window = opened.positions(min(WINDOW, opened.context) if ctx is None else ctx)
    asked = Asked(dram, cache, window, precision, verify, threads, kv, io)
    # How many tokens there are is known at the end only; four bytes a token is English. The bar comes first:
    # what it imports is then part of the process that the budget measures.
    total = tokens or max(1, len(content) // 4)
    with (
        output.progress("evaluating", total, unit="tokens") as done,
        open_pair(opened, asked, len(content)) as (model, reference, words),
    ):
        report = score(model, content, tokens, reference, done, window)
        levels = {part: getattr(model.precision, part) for part in PARTS}
    report = {"precision": levels, "kv": kv, "reference": words, **report}
    output.print_json(report) if json else _print(report)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise UsageError(f"the text cannot be read from {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the text {path} is not UTF-8 (byte {error.start})") from error


def _print(report: dict[str, Any]) -> None:
    levels = ", ".join(f"{part} {bits}" for part, bits in report["precision"].items())
    rows = [
        ("precision", f"{levels} bits"),
        ("keys and values", report["kv"]),
        ("predicted", f"{report['tokens']} tokens, {report['bytes']} bytes"),
        ("perplexity", f"{report['perplexity']:.4f}"),
        ("bits per byte", f"{report['bits_per_byte']:.4f}"),
        ("reference", report["reference"]),
    ]
    if report["mean_kl"] is not None:
        rows += [
            ("mean KL", f"{report['mean_kl']:.3e} nats"),
            ("top-1 agreement", f"{report['top1_agreement']:.2%}"),
        ]
    rows += [
        ("needed per token", format_size(report["needed_bytes_per_token"])),
        ("read per token", f"{format_size(report['read_bytes_per_token'])} (batches of 32 share reads)"),
    ]
    output.print_rows(rows)
