"""`m2cache inspect`: what a store holds, without reading its weights."""

from __future__ import annotations

import json as codec
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import output
from m2cache_rs.config import LEVELS, PLANES, format_size, user_path

if TYPE_CHECKING:
    from m2cache_rs._core import Store


def inspect(
    store: Annotated[
        Path, typer.Argument(parser=user_path, metavar="STORE", help="A store that `m2cache convert` made.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show architecture, coding, sections and their bytes, bits per weight, files, and the cache it needs."""
    from m2cache_rs.runtime.opening import open_store

    report = _report(store, open_store(store))
    output.print_json(report) if json else output.print_rows(list(_rows(report)))


def _report(path: Path, store: Store) -> dict[str, Any]:
    from m2cache_rs.models import Architecture
    from m2cache_rs.plan.budget import Weights
    from m2cache_rs.plan.footprint import bits_per_weight
    from m2cache_rs.recipe.recipe import Recipe

    manifest, layout = codec.loads(store.manifest()), codec.loads(store.layout())
    planes, spec = manifest["encoding"]["planes"], Architecture.from_dict(manifest["architecture"])
    levels = LEVELS[:planes]
    weights = {bits: Weights.of(spec, manifest["encoding"], Recipe.dense(bits)) for bits in levels}
    return {
        "store": str(path),
        "bytes": sum(one["bytes"] for one in (*manifest["files"], *manifest["assets"])),
        "weights": sum(one["weights"] for one in manifest["files"]),
        "bits_per_weight": bits_per_weight(layout, spec, planes, padded=False),
        "padded_bits_per_weight": bits_per_weight(layout, spec, planes, padded=True),
        "cache": {bits: {"all": of.all, "least": of.least} for bits, of in weights.items()},
        "directories": _directories(store, layout),
        "sections": _sections(layout),
        **manifest,
    }


def _directories(store: Store, layout: dict[str, Any]) -> list[dict[str, Any]]:
    """The directories that hold the files of weights, the store itself first."""
    found = [{"path": str(root), "files": 0, "bytes": 0} for root in store.roots()]
    for file in layout["files"]:
        found[file["root"]]["files"] += 1
        found[file["root"]]["bytes"] += file["bytes"]
    return found


def _sections(layout: dict[str, Any]) -> list[dict[str, Any]]:
    """Sections of the same name, summed over the files."""
    from m2cache_rs.plan.footprint import sections

    found: dict[str, dict[str, Any]] = {}
    for one in sections(layout):
        total = found.setdefault(
            one.name, {"name": one.name, "files": 0, "records": 0, "stride": one.stride, "bytes": 0}
        )
        total["files"] += 1
        total["records"] += one.records
        total["bytes"] += one.bytes
    return list(found.values())


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    size, features = format_size(report["bytes"]), _list(report["features"])
    yield "store", f"{report['store']}, {size} in {output.count(len(report['files']), 'file')}"
    yield "id", f"{report['id']} (format version {report['version']}, features: {features})"
    for root in report["directories"] if len(report["directories"]) > 1 else ():
        yield "root", f"{root['path']}, {format_size(root['bytes'])} in {output.count(root['files'], 'file')}"
    yield from _model(report["architecture"])
    yield from _coding(report)
    for one in report["sections"]:
        records, files = output.count(one["records"], "record"), output.count(one["files"], "file")
        shape = f"{records} of {one['stride']} bytes, {files}"
        yield f"section {one['name']}", f"{format_size(one['bytes'])}: {shape}"
    for bits, need in report["cache"].items():
        least = format_size(need["least"])
        yield f"cache at {bits} bits", f"{format_size(need['all'])} for all weights, at least {least}"
    yield "assets", _list([one["name"] for one in report["assets"]])


def _model(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    gated, tied = " gated" if spec["gated"] else "", " tied" if spec["tied"] else ""
    yield (
        "model",
        f"{spec['family']}, {spec['layers']} layers, hidden {spec['hidden']}, context {spec['context']}",
    )
    yield "attention", f"{spec['heads']} heads and {spec['kv_heads']} KV heads of {spec['head_dim']}"
    yield "FFN", f"{spec['ffn']} neurons, {spec['activation']}{gated}"
    yield "vocabulary", f"{spec['vocab']}{tied}"
    yield "biases", _list(spec["biases"])
    yield "rope", _list([f"{name} {value}" for name, value in spec["rope"].items()])


def _coding(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    coding, planes = report["encoding"]["coding"], PLANES[: report["encoding"]["planes"]]
    yield "coding", f"{coding['form']}, groups of {coding['group']}, planes {_list(planes)}"
    yield "equalized", "no" if report["equalize"] is None else codec.dumps(report["equalize"])
    yield "synthetic", "yes: random weights" if report["synthetic"] else "no"
    for part, levels in report["bits_per_weight"].items():
        padded = report["padded_bits_per_weight"][part]
        shown = [f"{real:.2f} at {bits} (padded {padded[bits]:.2f})" for bits, real in levels.items()]
        yield f"bits per weight, {part}", _list(shown)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
