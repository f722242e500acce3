"""A new store with the neurons of another in another order: records are moved as they are stored."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2cache_rs import _core
from m2cache_rs.convert.journal import replace_file
from m2cache_rs.convert.partial import Partial
from m2cache_rs.convert.source import io_error
from m2cache_rs.convert.target import check_apart, check_target
from m2cache_rs.errors import DamageError, UsageError

_SPARE = 1 << 20  # manifest, journal and the directory itself
Order = NDArray[np.uint32]


def check_new(dst: str | Path, source: Path) -> Path:
    """The absolute path of a store that is not there yet, apart from its source. UsageError, StoreIOError."""
    target = Path(os.path.abspath(dst))
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already; name a place for a new store")
    check_apart(source, target)
    return check_target(target, False)


def reorder(
    source: Path,
    dst: str | Path,
    orders: Sequence[Order],
    beside: Callable[[Path, str], object],
    progress: Callable[[int, int], None],
) -> str:
    """Writes the store at `source` to `dst` with neuron orders[l][i] of layer l in place i; the new id.

    All values are the same; the sums of down run in the new order. The work is done in `dst`.partial, which
    the same call resumes, and appears at once; a striped store becomes one directory. `beside(directory, id)`
    writes what lies beside the store before it appears. `progress` is told the files done, of how many.

    Raises UsageError, StoreIOError (space, a read or write), DamageError (what the source holds).
    """
    target = check_new(dst, source)
    store = _core.Store(str(source))
    manifest = json.loads(store.manifest())
    with Partial(target) as partial:
        try:
            return _run(store, source, manifest, orders, partial, beside, progress)
        except OSError as error:
            raise io_error("writing into", partial.path, error) from error


def _run(
    store: _core.Store,
    source: Path,
    manifest: dict[str, Any],
    orders: Sequence[Order],
    partial: Partial,
    beside: Callable[[Path, str], object],
    progress: Callable[[int, int], None],
) -> str:
    shape = json.dumps(manifest["architecture"]), json.dumps(manifest["encoding"])
    writer = _core.StoreWriter(str(partial.path), *shape)
    partial.resume(_plan(manifest, orders), writer)
    done = {json.loads(entry)["name"] for entry in partial.journal.entries}
    assets = [asset["name"] for asset in manifest["assets"]]
    left = sum(size for name, size in writer.files() if name not in done)
    partial.check_space([_SPARE + left + sum(asset["bytes"] for asset in manifest["assets"])])
    for name in assets:
        _asset(store, source / name, partial.path / name)
    for index, (name, _) in enumerate(writer.files()):
        if name not in done:
            writer.begin(name)
            writer.copy(store, orders[index] if index < len(orders) else None)
            partial.finished(writer.end())
        progress(index + 1, len(writer.files()))
    identity = writer.finish(json.dumps(_extra(manifest, assets)))
    beside(partial.path, identity)
    partial.publish(False)
    return identity


def _plan(manifest: dict[str, Any], orders: Sequence[Order]) -> dict[str, Any]:
    digest = hashlib.sha256(b"".join(order.tobytes() for order in orders)).hexdigest()
    return {"reordered": manifest["id"], "orders": digest, "stripes": []}


def _extra(manifest: dict[str, Any], assets: list[str]) -> dict[str, Any]:
    """As the source says, and which store it was."""
    kept = {name: manifest[name] for name in ("equalize", "synthetic")}
    source = {"reordered": manifest["id"], "source": manifest["source"]}
    return {**kept, "generator": f"m2cache-rs {_core.__version__}", "source": source, "assets": assets}


def _asset(store: _core.Store, path: Path, target: Path) -> None:
    """Copies one of the model's own files. DamageError where it is not what the store says."""
    for message, _ in store.verify(path.name):
        raise DamageError(message)
    replace_file(target, path.read_bytes())
