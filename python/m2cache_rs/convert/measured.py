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
    """The files in `profiles/` of the store at `target`, if there is one; `names` are theirs."""

    def __init__(self, target: Path) -> None:
        self._target, self._folder = target, target / PROFILES
        self.names = sorted(path.name for path in self._files())

    def foretold(self, new: dict[str, Any]) -> str | None:
        """A word on what becomes of them, before the work; `new` has architecture and encoding."""
        if not self.names:
            return None
        if _shape(self._manifest()) != _shape(new):
            return (
                f"replacing {self._target} will drop what was measured of it ({', '.join(self.names)}): the "
                "new store is another one. Copy them away, or stop now, if they are wanted"
            )
        return (
            f"{self._target} has profiles ({', '.join(self.names)}): they are kept if the new store turns "
            "out to have the same id, and dropped if not"
        )

    def keep(self, directory: Path, id: str) -> str | None:
        """Puts them into the new store of that id, which is still unpublished; a word where they are not its.

        They stay in the old one as well, so that a kill loses none.
        """
        if not self.names:
            return None
        if self._manifest().get("id") != id:
            return f"dropping what was measured of the replaced store: {', '.join(self.names)}"
        (directory / PROFILES).mkdir()
        for name in self.names:
            _link(self._folder / name, directory / PROFILES / name)
        sync_directory(directory / PROFILES)
        return None

    def _files(self) -> list[Path]:
        """Without those that somebody is still writing."""
        if not self._folder.is_dir():
            return []
        return [path for path in self._folder.iterdir() if path.is_file() and path.name[0] != "."]

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


def _link(path: Path, target: Path) -> None:
    """A second name; a copy where the file system has no such."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
