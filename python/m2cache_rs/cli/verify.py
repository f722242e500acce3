"""`m2cache verify`: every byte of a store against its digests and checksums."""

from __future__ import annotations

import errno
import json as codec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import output
from m2cache_rs.config import format_size, user_path
from m2cache_rs.errors import StoreError, StoreIOError

if TYPE_CHECKING:
    from m2cache_rs._core import Survey

DAMAGED = 1


def verify(
    store: Annotated[
        Path, typer.Argument(parser=user_path, metavar="STORE", help="A store that `m2cache convert` made.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a store. Every damage is named by file, layer, section and record; then the exit code is 1."""
    from m2cache_rs.runtime.opening import open_survey

    try:
        opened = open_survey(store)
    except (StoreError, StoreIOError) as error:
        if isinstance(error, StoreIOError) and error.errno != errno.ENOENT:
            raise
        # A broken manifest: what to check the rest against is unknown.
        _finish({"store": str(store), "id": None, "bytes": 0, "damages": [_damage(None, str(error))]}, json)
        return
    manifest = codec.loads(opened.manifest())
    files = [(one["name"], one["bytes"]) for one in (*manifest["files"], *manifest["assets"])]
    damages = _check(opened, files)
    total = sum(size for _, size in files)
    _finish({"store": str(store), "id": manifest["id"], "bytes": total, "damages": damages}, json)


def _check(store: Survey, files: list[tuple[str, int]]) -> list[dict[str, Any]]:
    found, before = [], 0
    with output.progress("verifying", sum(size for _, size in files)) as done:
        for name, size in files:
            base = before
            found += [
                _damage(name, message, place)
                for message, place in store.verify(name, lambda at, base=base: done(base + at))
            ]
            before += size
            done(before)
    return found


def _damage(name: str | None, message: str, place: tuple[str, int, int] | None = None) -> dict[str, Any]:
    section, record, records = place or (None, None, None)
    stem = Path(name or "").stem
    layer = int(stem.removeprefix("layer-")) if stem.startswith("layer-") else None
    return {
        "file": name,
        "layer": layer,
        "section": section,
        "record": record,
        "records": records,
        "message": message,
    }


def _finish(report: dict[str, Any], json: bool) -> None:
    damages = report["damages"]
    if json:
        output.print_json({"sound": not damages, **report})
    else:
        for one in damages:
            layer = "" if one["layer"] is None else f"layer {one['layer']}: "
            print(output.one_line(f"{layer}{one['message']}"))
        print(
            output.count(len(damages), "damage")
            if damages
            else f"sound: {format_size(report['bytes'])}, id {report['id']}"
        )
    if damages:
        raise SystemExit(DAMAGED)
