"""The shape that a path names: a store's, or what a store made from a configuration would have."""

from __future__ import annotations

from pathlib import Path

from m2cache_rs.config import user_path
from m2cache_rs.convert.checkpoint import read_config
from m2cache_rs.convert.encoding import choose
from m2cache_rs.errors import UsageError
from m2cache_rs.machine.places import MANIFEST
from m2cache_rs.models import architecture_of
from m2cache_rs.plan.shape import Shape
from m2cache_rs.runtime.opening import Opened

CONFIG = "config.json"


def shape_of(path: Path) -> Shape:
    """The shape of a store, of a config.json, or of a directory that holds one.

    Raises UsageError where none of them lies; what reading them raises.
    """
    path = user_path(path)
    config = path / CONFIG if path.is_dir() else path
    if (path / MANIFEST).exists() or _lies_in_a_store(path):
        return Opened(path)
    if not config.exists():
        what = f"has neither a {MANIFEST} nor a {CONFIG}" if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}; give a store, or a model's {CONFIG}: a plan needs no weights")
    spec = architecture_of(read_config(config), str(config))[1]
    return Shape(spec, choose(spec, "affine", 64, "all", None).to_dict())


def _lies_in_a_store(path: Path) -> bool:
    """Whether a file was named that only its store can be planned by."""
    return path.is_file() and path.name != CONFIG and (path.parent / MANIFEST).exists()
