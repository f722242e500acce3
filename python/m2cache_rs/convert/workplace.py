"""A directory in which files of an unfinished store are written: created, locked, cleared."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from pathlib import Path

from m2cache_rs.convert.huggingface import ASSETS
from m2cache_rs.convert.journal import NAME as JOURNAL
from m2cache_rs.convert.source import io_error
from m2cache_rs.convert.target import MANIFEST, MARKER, PROFILES
from m2cache_rs.errors import UsageError

_OURS = re.compile(r"layer-\d{5,}\.safetensors|embed\.safetensors")


def _is_ours(name: str) -> bool:
    return bool(_OURS.fullmatch(name)) or name in (*ASSETS, MANIFEST, MARKER, JOURNAL, PROFILES)


class Workplace:
    """A context: inside it the directory exists and belongs to this process alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Workplace:
        try:
            if not os.path.lexists(self.path):
                self.path.mkdir()
            if self.path.is_symlink() or not self.path.is_dir():
                raise UsageError(
                    f"{self.path} is not a directory; remove it, unfinished stores are made there"
                )
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as err:
            raise io_error("creating", self.path, err) from err
        self._take_lock(self._lock)
        return self

    def _take_lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder may have renamed the directory between our open and its end.
            free = self.path.exists() and self.is_at(self.path)
        except BlockingIOError:
            free = False
        if not free:
            self._unlock()
            raise UsageError(f"another conversion is writing {self.path}; wait for it to end")

    def __exit__(self, *_: object) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_at(self, path: Path) -> bool:
        """Whether `path` is this directory, which may have been renamed."""
        status = os.stat(path) if path.exists() else None
        return (
            status is not None and self._lock is not None and os.path.samestat(os.fstat(self._lock), status)
        )

    def clear(self, kept: set[str]) -> None:
        """Removes all files but those named; `UsageError` before anything else when one is not a store's."""
        found = [path for path in sorted(self.path.iterdir()) if path.name not in kept]
        foreign = [path for path in found if not _is_ours(path.name.removesuffix(".tmp"))]
        if foreign:
            raise UsageError(f"{foreign[0]} is no part of an unfinished store; move it out of that directory")
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def discard(self) -> None:
        """Removes the directory and what is in it."""
        self.clear(set())
        self.path.rmdir()
