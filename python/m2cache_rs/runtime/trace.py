"""Recording accesses to the weights, pass by pass, in the format of docs/trace.md."""

from __future__ import annotations

import json
import os
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2cache_rs._core import Engine
from m2cache_rs.config import Precision
from m2cache_rs.errors import StoreIOError, UsageError
from m2cache_rs.runtime.decoder import Batch, Kind

# What `Engine.take_trace` says of an access.
_HIT, _FIRST = 1, 2


# How a trace begins.
_HEAD = '{"format": "m2cache-trace"'


def _is_trace(path: Path) -> bool:
    """Whether a file is empty or holds a trace."""
    try:
        with path.open("rb") as file:
            return file.read(len(_HEAD)) in (b"", _HEAD.encode())
    except OSError:
        return True  # opening it to write says why


class Recorder:
    """Writes what an engine's passes ask for. Memory is that of one pass; a pass that failed is left out.

    Raises StoreIOError naming the file when it cannot be written.
    """

    def __init__(self, path: Path, engine: Engine, store: str, precision: Precision) -> None:
        self._path = path
        self._engine, self._levels = engine, precision
        levels = json.dumps({part: getattr(precision, part) for part in ("attn", "ffn", "head", "embed")})
        begin = f'{_HEAD}, "version": 1, "store": {json.dumps(store)}, "levels": '
        if path.is_file() and not _is_trace(path):
            raise UsageError(f"{path} is there and no trace: a trace does not replace it; name another file")
        try:
            self._file = path.open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise self._refused(error) from error
        blocks = json.dumps(_runs(json.loads(engine.blocks())))
        self._write(f'{begin}{levels}, "synthetic": null, "blocks": {blocks}}}\n')
        # Where the levels are in the file, and as much of nothing.
        self._place, self._none = len(begin), b"null".ljust(len(levels))
        engine.record(True)

    def begin(self, precision: Precision) -> None:
        """Forgets what a pass that failed has left; the next one reads these levels.

        Where they are others than the file tells, of a model by several recipes, it tells none from now on.
        """
        self._engine.take_trace()
        if self._levels != precision and self._none:
            try:
                os.pwrite(self._file.fileno(), self._none, self._place)
            except OSError as error:
                raise self._refused(error) from error
            self._none = b""

    def __call__(self, batch: Batch) -> None:
        """Writes the pass that `batch` has just made; it bears the kind of its first row."""
        kind = Kind(int(batch.kinds[0])).name.lower()
        self._write(f"{kind} {len(batch.positions)}\n{_steps(self._engine.take_trace())}")

    def close(self) -> None:
        """Ends the recording."""
        self._engine.record(False)
        try:
            self._file.close()
        except OSError as error:
            raise self._refused(error) from error

    def _write(self, text: str) -> None:
        # Flushed: whole passes are in the file if the process is killed.
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> StoreIOError:
        refused = StoreIOError(f"writing the trace {self._path}: {error.strerror or error}")
        refused.errno = error.errno
        return refused


def _runs(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal neighbours counted."""
    named = [{name: block[name] for name in ("section", "layer", "bytes")} for block in blocks]
    return [run | {"count": sum(1 for _ in same)} for run, same in groupby(named)]


def _steps(accesses: NDArray[np.uint32]) -> str:
    """A line a step."""
    words = [str(block) if state & _HIT else f"{block}*" for block, state in accesses.tolist()]
    starts = np.flatnonzero(accesses[:, 1] & _FIRST).tolist()
    return "".join(" ".join(words[a:b]) + "\n" for a, b in pairwise([*starts, len(words)]))
