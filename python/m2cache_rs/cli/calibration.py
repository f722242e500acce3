"""Activation statistics for `convert --calibrate`: from a named store, or one made for it and removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from m2cache_rs.cli import output
from m2cache_rs.cli.texts import read_text
from m2cache_rs.convert import Calibration, convert
from m2cache_rs.convert.calibrate import check_plain, measure
from m2cache_rs.convert.open import open_checkpoint
from m2cache_rs.convert.partial import Partial
from m2cache_rs.convert.target import MANIFEST
from m2cache_rs.errors import M2CacheError


def calibration_of(
    src: str, target: Path, text_file: Path, store: Path | None, tokenizer: Path | None
) -> Calibration:
    """Runs a plain store of `src` over a text. Raises `UsageError`, and what converting and running raise."""
    text = read_text(text_file, "calibration text")
    with closing(open_checkpoint(src, tokenizer)) as checkpoint:
        source = checkpoint.fingerprint()
    if store is not None:
        check_plain(_manifest(store), source, str(store))
        return _measure(store, text)
    with temporary_store(src, target, source, tokenizer) as made:
        return _measure(made, text)


@contextmanager
def temporary_store(src: str, target: Path, source: dict[str, Any], tokenizer: Path | None) -> Iterator[Path]:
    """A plain store beside `target`, where there is room for stores; removed whatever happens.

    Only a kill can leave it behind; the next calibration then takes it over.
    """
    path = target.with_name(f"{target.name}.calibration")
    try:
        if not _usable(path, source):
            output.note(f"making a plain store for the statistics: {path} (removed afterwards)")
            convert(src, path, equalize=False, force=True, tokenizer=tokenizer, notify=output.note)
        yield path
    finally:
        _remove(path)


def _usable(path: Path, source: dict[str, Any]) -> bool:
    try:
        check_plain(_manifest(path), source, str(path))
    except M2CacheError:
        return False
    return True


def _remove(path: Path) -> None:
    if (path / MANIFEST).is_file():
        shutil.rmtree(path)
    with suppress(M2CacheError, OSError), Partial(path) as partial:
        partial.discard()


def _manifest(store: Path) -> dict[str, Any]:
    from m2cache_rs._core import Store

    manifest: dict[str, Any] = json.loads(Store(str(store)).manifest())
    return manifest


def _measure(store: Path, text: str) -> Calibration:
    from m2cache_rs import Model

    with Model.open(store, kv="f32") as model:
        return measure(model, text)
