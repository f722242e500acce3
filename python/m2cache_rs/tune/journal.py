"""What was measured so far, in `STORE/profiles/tuning-KEY.journal`: with it an interrupted tune goes on.

The first line says what was measured on (the store, the ids of the text, what all recipes have in common,
digests of what they read), and KEY is its digest. A line for each recipe follows, appended and synced when it
is measured: its shares and what it cost. Every line begins with the CRC-32 of the rest. Nothing in it depends
on a goal, so the next goal finds it as well; whoever wants its space (0.3 MB for 32 layers) may remove it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import sys
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from io import FileIO
from itertools import chain, groupby, repeat
from pathlib import Path
from typing import Any

from m2cache_rs.errors import StoreError, UsageError
from m2cache_rs.recipe.profiles import FOLDER, opened, write
from m2cache_rs.tune.frontier import Point
from m2cache_rs.tune.layers import Shares

VERSION = 1
_LOG = logging.getLogger("m2cache_rs")
_KEY = 12
# More than any model has: what a damaged line repeats has to fit into memory.
_LAYERS = 1 << 16
_MOST = sys.float_info.max
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
SUFFIX = ".journal"


class Journal:
    """A context, inside which the file belongs to this process alone: UsageError where another one has it.

    `about`: all that a measurement depends on beside shares. `restart`: what is there is dropped. Where it
    cannot be written (a store that is read-only) that is said, what it has is used, and nothing more is kept.
    StoreError where something else has its name, a pipe for example.
    """

    def __init__(self, store: Path, about: Mapping[str, Any], restart: bool = False) -> None:
        self._about = _line({"version": VERSION, **about})
        key = hashlib.sha256(self._about).hexdigest()[:_KEY]
        self.path = store / FOLDER / f"tuning-{key}{SUFFIX}"
        self._points: dict[tuple[Shares, ...], Point] = {}
        self._restart = restart
        self._file: FileIO | None = None

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(exist_ok=True)
            self._file = opened(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._lock(self._file)
            self._take_up(self._file)
        except OSError as error:
            if error.errno in _READ_ONLY and not self._restart:
                self._read_only()
            self._go_without(error)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __len__(self) -> int:
        """How many recipes it has."""
        return len(self._points)

    @property
    def restarted(self) -> bool:
        """Whether what was there was dropped."""
        return self._restart

    @property
    def is_kept(self) -> bool:
        """Whether it can be written."""
        return self._file is not None

    def find(self, how: str, shares: tuple[Shares, ...]) -> Point | None:
        """What these shares cost, if they were measured, under the name that they are asked for by now."""
        found = self._points.get(shares)
        return None if found is None else replace(found, how=how)

    def add(self, point: Point) -> None:
        """Keeps what was measured, if it is numbers: others JSON has not, and they are measured again."""
        if not _is_sound(_value(point)):
            return
        self._points[point.shares] = point
        if self._file is not None:
            try:
                _append(self._file, [_line(_value(point))])
            except OSError as error:
                self._go_without(error)

    def _read_only(self) -> None:
        """What is whole in it: who may write goes on meanwhile."""
        with suppress(OSError), opened(self.path) as file:
            first, *lines = _whole(file.readall()).split(b"\n")[:-1] or [b""]
            points = [_point(line) for line in lines] if first == self._about[:-1] else []
            self._points = {point.shares: point for point in points if point is not None}

    def _lock(self, file: FileIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process measures the same, into {self.path}: wait for it, what it finds serves both"
            ) from None

    def _take_up(self, file: FileIO) -> None:
        content = b"" if self._restart else file.readall()
        whole = _whole(content)
        first, *lines = whole.split(b"\n")[:-1] or [self._about[:-1]]
        ours = first == self._about[:-1]
        points = [_point(line) for line in lines] if ours else []
        self._points = {point.shares: point for point in points if point is not None}
        if not ours or None in points:
            self._set_aside(content)
            whole = b""
        file.truncate(len(whole))
        if not whole:
            _append(file, [self._about, *(_line(_value(point)) for point in self._points.values())])

    def _set_aside(self, content: bytes) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        write(aside, lambda file: file.write(content))
        _LOG.warning(
            "%s is damaged: it is now %s, and %d measurements of it that are sound go on",
            self.path,
            aside.name,
            len(self._points),
        )

    def _go_without(self, error: OSError) -> None:
        known = f"{len(self)} that are known serve, and no more are kept" if len(self) else "none is kept"
        _LOG.warning(
            "measurements cannot be kept in %s (%s): %s, so that tune, interrupted, would measure them anew",
            self.path,
            error.strerror or error,
            known,
        )
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def check(path: Path, id: str) -> None:
    """StoreError where the journal of the store of that id is damaged, or another's. OSError.

    A last line that a kill cut short is neither, though it be the first one.
    """
    with opened(path) as file:
        whole = _whole(file.readall())
    if not whole:
        return
    first, *lines = whole.split(b"\n")[:-1]
    about = _read(first)
    if about is not None and about.get("store") != id:
        raise StoreError(f"{path} was made for another store; remove it")
    damaged = [i for i, line in enumerate(lines, 2) if _point(line) is None]
    if about is None or damaged:
        where = f"line {(damaged or [1])[0]}"
        raise StoreError(f"{path} is damaged in {where}; `m2cache tune` goes on with what is sound in it")


def _whole(content: bytes) -> bytes:
    """Its lines but the last one, where a kill cut that short."""
    return content[: content.rfind(b"\n") + 1]


def _append(file: FileIO, lines: Iterable[bytes]) -> None:
    left = b"".join(lines)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _line(value: Mapping[str, Any]) -> bytes:
    return _signed(json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False).encode())


def _signed(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _value(point: Point) -> dict[str, Any]:
    """Shares as runs of layers that are alike: all layers but one are, mostly."""
    runs = [[len(list(same)), *shares] for shares, same in groupby(point.shares)]
    return {**asdict(point), "shares": runs}


def _read(line: bytes) -> dict[str, Any] | None:
    """What a line says, without its end; None where it is damaged."""
    text = line[9:]
    try:
        value = json.loads(text) if line + b"\n" == _signed(text) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _point(line: bytes) -> Point | None:
    """The same of a recipe's line."""
    try:
        value = _read(line) or {}
        if not _is_sound(value):
            return None
        runs = [repeat((first, second, third), count) for count, first, second, third in value["shares"]]
        interval = None if value["interval"] is None else tuple(value["interval"])
        return Point(**{**value, "shares": tuple(chain.from_iterable(runs)), "interval": interval})
    except TypeError:
        return None


def _is_sound(value: Mapping[str, Any]) -> bool:
    """Whether all fields of a recipe's line that are read are what `_value` writes."""
    runs, interval = value.get("shares"), value.get("interval")
    return (
        isinstance(value.get("how"), str)
        and all(_is_number(value.get(name)) for name in ("kl", "entropy", "perplexity", "bytes", "bits"))
        and (interval is None or _are_numbers(interval, 2))
        and isinstance(runs, list)
        and all(_are_numbers(run, 4) and type(run[0]) is int and run[0] > 0 for run in runs)
        and 0 < sum(run[0] for run in runs) <= _LAYERS
    )


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, list | tuple) and len(values) == count and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    """JSON's, which fits a float; of Python's constants and large integers neither does."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST
