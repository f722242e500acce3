"""`m2cache verify`: every byte of a store against its digests and checksums."""

from __future__ import annotations

import errno
import json as codec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import output
from m2cache_rs.config import format_size, user_path
from m2cache_rs.errors import M2CacheError, StoreError, StoreIOError

if TYPE_CHECKING:
    from m2cache_rs._core import Survey

DAMAGED = 1


def verify(
    store: Annotated[
        Path, typer.Argument(parser=user_path, metavar="STORE", help="A store that `m2cache convert` made.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a store and what was measured of it. Every damage is named; then the exit code is 1.

    That is by file, layer, section and record of the weights, and by file of profiles/.
    """
    from m2cache_rs.runtime.opening import open_survey

    try:
        opened = open_survey(store)
    except (StoreError, StoreIOError) as error:
        if isinstance(error, StoreIOError) and error.errno != errno.ENOENT:
            raise
        # A broken manifest: what to check the rest against is unknown.
        _finish(
            {
                "store": str(store),
                "id": None,
                "bytes": 0,
                "profiles": [],
                "damages": [_damage(None, str(error))],
            },
            json,
        )
        return
    manifest = codec.loads(opened.manifest())
    files = [(one["name"], one["bytes"]) for one in (*manifest["files"], *manifest["assets"])]
    damages = _check(opened, files)
    profiles, wrong = _check_profiles(store, manifest)
    total = sum(size for _, size in files)
    report = {"store": str(store), "id": manifest["id"], "bytes": total, "profiles": profiles}
    _finish({**report, "damages": damages + wrong}, json)


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


def _check_profiles(store: Path, manifest: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The files of profiles/ that are known, and what is wrong in them."""
    from m2cache_rs.models import Architecture
    from m2cache_rs.recipe.sound import Profiles
    from m2cache_rs.tune import journal

    found, damages = [], []
    spec = Architecture.from_dict(manifest["architecture"])
    profiles = Profiles(store, manifest["id"], spec, int(manifest["encoding"]["planes"]))
    for name in profiles.names():
        try:
            if name.endswith(journal.SUFFIX):
                journal.check(store / "profiles" / name, manifest["id"])
            elif not profiles.check(name):
                continue
        except (M2CacheError, OSError) as error:
            damages.append(_damage(f"profiles/{name}", str(error)))
        found.append(name)
    return found, damages


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


def _beside(profiles: list[str]) -> str:
    return f"; profiles: {', '.join(profiles)}" if profiles else ""


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
            else f"sound: {format_size(report['bytes'])}, id {report['id']}{_beside(report['profiles'])}"
        )
    if damages:
        raise SystemExit(DAMAGED)
