"""Rows in front of every FFN, kept on disk for predictors: a nameless file, of which nothing stays."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from m2cache_rs.errors import StoreIOError
from m2cache_rs.runtime.decoder import Floats


class Spool:
    """float32 rows [layers][rows][hidden] in a file without a name, in an existing directory.

    A context. Its space is taken at the start: a full disk is met before the work. StoreIOError says where.
    """

    def __init__(self, directory: Path, layers: int, rows: int, hidden: int) -> None:
        self._rows, self._hidden = rows, hidden
        self._directory = directory
        try:
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  closed by __exit__
            os.posix_fallocate(self._file.fileno(), 0, max(1, layers * rows * hidden * 4))
        except OSError as error:
            size = layers * rows * hidden * 4
            raise self._told(f"{size} bytes of activations cannot be kept in", error) from error

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, layer: int, first: int, rows: Floats) -> None:
        """Keeps rows `first`.. of a layer."""
        try:
            self._file.seek(self._at(layer, first))
            self._file.write(np.ascontiguousarray(rows, np.float32).tobytes())
        except OSError as error:
            raise self._told("activations cannot be written in", error) from error

    def read(self, layer: int, first: int, count: int) -> Floats:
        """Rows first..first + count of a layer, [count, hidden]."""
        self._file.seek(self._at(layer, first))
        values = np.frombuffer(self._file.read(count * self._hidden * 4), np.float32)
        return values.reshape(count, self._hidden).copy()

    def _at(self, layer: int, row: int) -> int:
        return (layer * self._rows + row) * self._hidden * 4

    def _told(self, what: str, error: OSError) -> StoreIOError:
        told = StoreIOError(
            f"{what} {self._directory}: {error.strerror or error}; "
            "fewer --tokens take less, --no-predictors none"
        )
        told.errno = error.errno
        return told
