"""`m2cache eval`: quality and bytes per token of a store, on a text."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import output
from m2cache_rs.config import PARTS, format_size
from m2cache_rs.errors import UsageError

if TYPE_CHECKING:
    from m2cache_rs.runtime.session import Model


def evaluate(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store that `m2cache convert` made.")],
    text: Annotated[Path, typer.Option("--text", help="The text to be predicted, in UTF-8.")],
    tokens: Annotated[
        int | None, typer.Option(help="Only the first N tokens (default: the whole text).")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="4, 8, 16, or per part: attn=8,ffn=4,head=8,embed=16 (default: all that is stored)."
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(help="Weight cache, for example 64MiB (default: all weights, as memory allows)."),
    ] = None,
    kv: Annotated[str, typer.Option(help="Keep keys and values as f16 or f32.")] = "f16",
    threads: Annotated[int | None, typer.Option(help="Threads (default: one a core).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure perplexity, bits per byte, and the distance from the same store at its best.

    That is dense at 16 bits, keys and values in f32.
    """
    content = _read(text)
    from m2cache_rs.runtime.session import Model

    with ExitStack() as opened:
        model = opened.enter_context(
            Model.open(store, cache=cache, precision=precision, threads=threads, kv=kv)
        )
        reference, words = _reference(model, kv, store, threads)
        if reference is not None:
            opened.enter_context(reference)
        report = _run(model, content, tokens, reference)
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


def _reference(model: Model, kv: str, store: Path, threads: int | None) -> tuple[Model | None, str]:
    """What to compare with, and in words what that is."""
    from m2cache_rs.runtime.session import Model

    best = "dense at 16 bits, keys and values in f32"
    if kv == "f32" and all(getattr(model.precision, part) == 16 for part in PARTS):
        return model, f"itself: this is the store {best}"
    if model.planes < 3:
        return (
            None,
            "none: the store leaves out the plane 'low' that 16 bits need (convert with --planes all)",
        )
    return Model.open(store, precision=16, threads=threads, beside=model, kv="f32"), f"the same store {best}"


def _run(model: Model, text: str, tokens: int | None, reference: Model | None) -> dict[str, Any]:
    from m2cache_rs.eval.run import evaluate as score

    # How many tokens there are is known at the end only; four bytes a token is English.
    total = tokens or max(1, len(text) // 4)
    with output.progress("evaluating", total, unit="tokens") as done:
        return score(model, text, tokens, reference, done)


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
