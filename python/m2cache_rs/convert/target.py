"""Where a store goes: what may be written or replaced there, said before any work."""

from __future__ import annotations

import os
from pathlib import Path

from m2cache_rs.config import user_path
from m2cache_rs.errors import StoreIOError, UsageError

MANIFEST = "m2cache.json"
MARKER = "m2cache-root.json"
PARTIAL = ".partial"
PROFILES = "profiles"


def check_target(dst: str | Path, force: bool) -> Path:
    """The absolute path of the new store.

    Raises `UsageError` for a path that is taken or cannot be one, `StoreIOError` for a read-only parent.
    """
    target = Path(os.path.abspath(user_path(dst)))
    if not target.name or target.name.endswith(PARTIAL):
        raise UsageError(f"{target} cannot name a store (names ending in {PARTIAL} are for unfinished ones)")
    check_parent(target.parent)
    if os.path.lexists(target):
        _check_replaceable(target, force)
    return target


def check_apart(source: Path, target: Path) -> None:
    """Refuses a store inside its source, and a source inside the store it would replace."""
    source, target = source.resolve(), target.resolve()
    if source == target:
        raise UsageError(f"source and target are the same: {target}")
    if source.is_dir() and source in target.parents:
        raise UsageError(f"the target {target} lies inside the source {source}; name a place outside it")
    if target in source.parents:
        raise UsageError(f"the source {source} lies inside the target {target}, which would be replaced")


def check_parent(parent: Path) -> None:
    """Raises `UsageError` for what is no directory, `StoreIOError` for one that cannot be written."""
    if not parent.exists():
        raise UsageError(f"the directory {parent} does not exist; create it first")
    if not parent.is_dir():
        raise UsageError(f"{parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
        raise StoreIOError(f"the directory {parent} cannot be written (read-only, or no permission)")


def _check_replaceable(target: Path, force: bool) -> None:
    if target.is_symlink():
        raise UsageError(f"{target} is a symbolic link; name the place it points to")
    if not target.is_dir():
        raise UsageError(f"{target} is a file; name a directory that does not exist yet")
    if not force:
        raise UsageError(f"{target} exists already; pass --force to replace it")
    if not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise UsageError(f"{target} is no store (it has no {MANIFEST}): --force replaces stores only")
