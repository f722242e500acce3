"""What was measured of a store that is replaced: kept where the new one is the same, else told of."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from m2cache_rs.convert.journal import sync_directory
from m2cache_rs.convert.target import MANIFEST, PROFILES

_SIZES = ("layers", "hidden", "ffn", "heads", "kv_heads", "vocab")


class Measured:
    """What lies in `profiles/` of the store at `target`, if there is one."""

    def __init__(self, target: Path) -> None:
        self._target, self._folder = target, target / PROFILES

    def foretold(self, new: dict[str, Any]) -> str | None:
        """A word on what becomes of them, before the work; `new` has architecture and encoding."""
        names = ", ".join(self._names())
        if not names:
            return None
        if _shape(self._manifest()) != _shape(new):
            return (
                f"replacing {self._target} will drop what was measured of it ({names}): the "
                "new store is another one. Copy them away, or stop now, if they are wanted"
            )
        return (
            f"{self._target} has profiles ({names}): they are kept if the new store turns out to have the "
            "same id, and dropped if not"
        )

    def keep(self, directory: Path, id: str) -> str | None:
        """Puts them into the new store of that id, which is still unpublished; a word where they are not its.

        What is there by now: a conversion takes long, and others measure meanwhile. It stays in the old one
        as well, so that a kill loses none; a journal that is open goes on in both.
        """
        names = self._names()
        if not names:
            return None
        if self._manifest().get("id") != id:
            return f"dropping what was measured of the replaced store: {', '.join(names)}"
        (directory / PROFILES).mkdir()
        for name in names:
            _carry(self._folder / name, directory / PROFILES / name)
        sync_directory(directory / PROFILES)
        return None

    def _names(self) -> list[str]:
        """Without those that somebody is still writing (recipe/profiles.py)."""
        if not self._folder.is_dir():
            return []
        names = (path.name for path in self._folder.iterdir())
        return sorted(name for name in names if not (name[0] == "." and name.endswith(".tmp")))

    def _manifest(self) -> dict[str, Any]:
        """That of the old store; empty where it is broken."""
        try:
            found = json.loads((self._target / MANIFEST).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def _shape(manifest: dict[str, Any]) -> tuple[Any, list[Any]]:
    """What tells stores apart before the weights are read, numbers that a manifest rounds left out."""
    architecture = manifest.get("architecture", {})
    return manifest.get("encoding"), [architecture.get(size) for size in _SIZES]


def _carry(path: Path, target: Path) -> None:
    """A second name of a file, a directory with all that lies in it; nothing of what is gone by now."""
    try:
        if path.is_symlink():
            target.symlink_to(path.readlink())
        elif path.is_dir():
            target.mkdir()
            for inner in path.iterdir():
                _carry(inner, target / inner.name)
            sync_directory(target)
        else:
            _link(path, target)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise


def _link(path: Path, target: Path) -> None:
    """A second name; a copy where the file system has no such."""
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
