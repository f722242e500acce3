"""The directory of an unfinished store, `NAME.partial`: locked, resumed, and at last renamed to `NAME`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from m2cache_rs import _core
from m2cache_rs.convert.huggingface import ASSETS
from m2cache_rs.convert.journal import NAME as JOURNAL
from m2cache_rs.convert.journal import Journal
from m2cache_rs.convert.source import io_error
from m2cache_rs.convert.target import MANIFEST, PARTIAL
from m2cache_rs.errors import StoreIOError, UsageError

_OURS = re.compile(r"layer-\d{5,}\.safetensors|embed\.safetensors|profiles")


def _is_ours(name: str) -> bool:
    return bool(_OURS.fullmatch(name)) or name in (*ASSETS, MANIFEST, JOURNAL)


class Partial:
    """A context: inside it the directory exists and belongs to this process alone.

    An error before the first file is finished removes the directory; afterwards it stays, to be resumed.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + PARTIAL)
        self.journal = Journal({})
        self._lock: int | None = None

    def __enter__(self) -> Partial:
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
            free = self.path.exists() and os.path.samestat(os.fstat(lock), self.path.stat())
        except BlockingIOError:
            free = False
        if not free:
            self._unlock()
            raise UsageError(f"another conversion is writing {self.path}; wait for it to end")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        earlier = Journal.read(self.path)
        if error is not None and self._lock is not None and not (earlier and earlier.entries):
            with contextlib.suppress(OSError, UsageError):
                self.discard()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def resume(self, plan: dict[str, Any], writer: _core.StoreWriter) -> str | None:
        """Adopts what an earlier run of the same plan finished, removes the rest; returns a word on it."""
        earlier = Journal.read(self.path)
        same = earlier is not None and earlier.plan == plan
        adopted = [entry for entry in earlier.entries if writer.adopt(entry)] if earlier and same else []
        self.journal = Journal(plan, adopted)
        self._clear({json.loads(entry)["name"] for entry in adopted})
        self.journal.write(self.path)
        if adopted:
            return f"resuming: {len(adopted)} of {len(writer.files())} files are finished already"
        if earlier is not None and earlier.entries:
            return f"starting over: {self.path} was made from another source or with other options"
        return None

    def discard(self) -> None:
        """Removes the directory and what is in it."""
        self._clear(set())
        self.path.rmdir()

    def _clear(self, kept: set[str]) -> None:
        found = [path for path in sorted(self.path.iterdir()) if path.name not in kept]
        foreign = [path for path in found if not _is_ours(path.name.removesuffix(".tmp"))]
        if foreign:
            raise UsageError(f"{foreign[0]} is no part of an unfinished store; move it out of that directory")
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def check_space(self, needed: int) -> None:
        """Raises `StoreIOError` where the file system has less than `needed` bytes left."""
        free = shutil.disk_usage(self.path).free
        if needed > free:
            error = StoreIOError(
                f"not enough space in {self.path.parent}: the store needs {needed / 1e6:.1f} MB more, "
                f"{free / 1e6:.1f} MB are free"
            )
            error.errno = errno.ENOSPC
            raise error

    def finished(self, entry: str) -> None:
        """Notes a finished file."""
        self.journal.entries.append(entry)
        self.journal.write(self.path)

    def publish(self, replace: bool) -> None:
        """Renames the finished directory into place; should that fail, it can still be resumed."""
        (self.path / JOURNAL).unlink()
        try:
            _core.publish(str(self.path), str(self.target), replace)
        except BaseException:
            if (self.path / MANIFEST).exists() and not self._moved():
                self.journal.write(self.path)
            raise

    def _moved(self) -> bool:
        status = os.stat(self.target) if self.target.exists() else None
        return (
            status is not None and self._lock is not None and os.path.samestat(os.fstat(self._lock), status)
        )
