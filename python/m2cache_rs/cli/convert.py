"""`m2cache convert`: a checkpoint becomes a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2cache_rs.cli import output
from m2cache_rs.config import format_size, user_path
from m2cache_rs.errors import UsageError

if TYPE_CHECKING:
    from m2cache_rs.convert import ConvertReport, Progress


def convert(
    src: Annotated[
        str, typer.Argument(metavar="SRC", help="A model directory, hub id (OWNER/MODEL) or llama2.c .bin.")
    ],
    dst: Annotated[
        Path, typer.Argument(parser=user_path, metavar="DST", help="The store to make, for example NAME.m2c.")
    ],
    form: Annotated[str, typer.Option(help="How a group is coded: affine or symmetric.")] = "affine",
    group: Annotated[int, typer.Option(help="Weights that share a scale: 64 or 32.")] = 64,
    planes: Annotated[str, typer.Option(help="Stored planes: base (4 bits), mid (8) or all (16).")] = "all",
    sections: Annotated[
        str | None, typer.Option(help="Preset: split, bundled or gated; default: what suits the activation.")
    ] = None,
    equalize: Annotated[
        bool | None,
        typer.Option(help="Equalise channels by the weights: same function, finer codes (default: do)."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            parser=user_path, metavar="TEXT", help="Equalise channels by activations on this text file."
        ),
    ] = None,
    from_store: Annotated[
        Path | None,
        typer.Option(
            "--from", parser=user_path, metavar="STORE", help="Plain store of SRC that --calibrate runs."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace an existing store; its profiles stay if the new one has the same id."
        ),
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(parser=user_path, metavar="FILE", help="Tokenizer .bin of a llama2.c model."),
    ] = None,
    stripe: Annotated[
        str | None,
        typer.Option(metavar="DIR,DIR", help="Spread the files over DST and these, each on another device."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Convert a model into a store. Interrupted, the same command goes on where it stopped."""
    from m2cache_rs.cli.calibration import calibration_of
    from m2cache_rs.convert import convert as run
    from m2cache_rs.convert.target import check_target

    if from_store is not None and calibrate is None:
        raise UsageError("--from names the store that --calibrate TEXT runs; give both")
    if calibrate is not None and equalize is False:
        raise UsageError("--calibrate TEXT equalises; leave out --no-equalize")
    check_target(dst, force)
    statistics = None
    if calibrate is not None:
        statistics = calibration_of(src, check_target(dst, force), calibrate, from_store, tokenizer)
    with output.progress("converting") as show:

        def progress(at: Progress) -> None:
            show(at.done, total=at.total, start=at.resumed, label=f"converting {at.file}")

        report = run(
            src, dst, form=form, group=group, planes=planes, sections=sections,
            equalize=equalize is not False, calibration=statistics, force=force,
            tokenizer=tokenizer, stripe=_directories(stripe), progress=progress, notify=output.note,
        )  # fmt: skip
    _print(report, as_json)


def _directories(text: str | None) -> list[str]:
    names = [] if text is None else text.split(",")
    if not all(names):
        raise UsageError(f"--stripe is {text!r}; directories with commas between them are needed")
    return names


def _print(report: ConvertReport, as_json: bool) -> None:
    from m2cache_rs.convert.run import ZERO_SHARE

    if report.zero_share > ZERO_SHARE:
        output.note(
            f"warning: {report.zero_share:.1%} of the weights are exact zeros; they decode to half a cell"
        )
    if as_json:
        output.print_json(report.to_dict())
        return
    rate = format_size(report.source_bytes / max(report.seconds, 1e-9))
    bits = ", ".join(f"{bits:.4g} at {level} bits" for level, bits in report.bits_per_weight.items())
    equalized = f", equalised by {report.equalize['by']}" if report.equalize else ""
    path = output.one_line(report.path)
    print(f"{path}: {format_size(report.bytes)} from {format_size(report.source_bytes)} of weights")
    coding = f"{report.form} groups of {report.group}, sections {report.sections}{equalized}"
    print(f"  {report.weights:,} weights, {coding}")
    print(f"  bits per weight: {bits}; exact zeros: {report.zero_share:.2%}")
    if len(report.roots) > 1:
        print(f"  striped over {len(report.roots)} directories: {output.one_line(', '.join(report.roots))}")
    print(f"  {report.seconds:.1f} s, {rate}/s, id {report.id}")
