"""What was measured of a store, kept in `STORE/profiles/`: written in one step, with the store's id."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from m2cache_rs.errors import StoreError, StoreIOError

FOLDER = "profiles"
# A predictor of 7B has 300 MB.
_PART = 1 << 20
# More than recipes of any model have.
_TRIAL = 1 << 16


def made(store: Path) -> Path:
    """The folder of profiles, which has room and may be written: for who will measure first. StoreIOError."""
    folder = store / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            # File systems that compress make nothing of zeros.
            trial.write(os.urandom(_TRIAL))
            trial.flush()
            os.fsync(trial.fileno())
        return folder
    except OSError as error:
        raise io_error(f"{folder} cannot be written to", error) from error


def opened(path: Path, flags: int = os.O_RDONLY) -> FileIO:
    """A file of `profiles/`, unbuffered. OSError; StoreError where it is a directory, a device or a pipe,
    which would keep who reads it waiting.
    """
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise StoreError(f"{path} is no regular file; remove it")
        return FileIO(handle, "r+b" if flags & os.O_RDWR else "rb")
    except BaseException:
        os.close(handle)
        raise


def write(path: Path, fill: Callable[[IO[bytes]], object], store: str | None = None) -> Path:
    """A file of `profiles/` that is there as a whole or not at all; `fill` writes it. Raises StoreIOError.

    `store`: the id of what was measured. StoreError where another store took its place meanwhile.
    """
    # tempfile would keep what it makes from other users, who may read the store.
    partial = path.with_name(f".{uuid4().hex}.tmp")
    try:
        _check_place(path, store)
        path.parent.mkdir(exist_ok=True)
        with partial.open("xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        _check_place(path, store)
        os.replace(partial, path)
        _sync(path.parent)
    except OSError as error:
        _check_place(path, store)
        raise io_error(f"{path} cannot be written", error) from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return path


def _check_place(path: Path, store: str | None) -> None:
    """StoreError where `path` lies in a store of another id than that which was measured."""
    directory = path.parent.parent
    try:
        found = json.loads((directory / "m2cache.json").read_bytes())["id"]
    except (OSError, ValueError, LookupError, TypeError):
        return  # no store that says whose it is
    if store not in (None, found):
        raise StoreError(
            f"{directory} was replaced by another store ({found!s:.16}) while {store} was measured: "
            f"{path.name} was not written; measure this one"
        )


def write_json(path: Path, store: str, version: int, content: Mapping[str, Any]) -> Path:
    """The same with JSON, which says whose and of which version it is."""
    text = json.dumps({"version": version, "store": store, **content}, indent=2) + "\n"
    return write(path, lambda file: file.write(text.encode()), store)


def read_json(path: Path, store: str, version: int, remedy: str) -> dict[str, Any] | None:
    """What `write_json` wrote for the store of that id; None where there is no such file.

    StoreError where it is another store's, of another version or no JSON, ending in `remedy`; StoreIOError.
    """
    try:
        with opened(path) as file:
            value = json.loads(file.readall())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise io_error(f"{path} cannot be read", error) from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is no JSON; {remedy}") from error
    if not isinstance(value, dict) or value.get("version") != version:
        raise StoreError(f"{path} is not of version {version}; {remedy}")
    check_store(path, value.get("store"), store, remedy)
    return value


def check_store(path: Path, found: Any, store: str, remedy: str) -> None:
    """StoreError where a file says that it is of another store."""
    if found != store:
        raise StoreError(f"{path} was made for another store ({found!s:.40}), this one is {store}; {remedy}")


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; it is read once as long as it stays as it is. StoreIOError."""
    try:
        there = path.stat()
        return _digest(path, (there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns))
    except OSError as error:
        raise io_error(f"{path} cannot be read", error) from error


@lru_cache(maxsize=64)
def _digest(path: Path, _there: tuple[int, ...]) -> str:
    found = hashlib.sha256()
    with opened(path) as file:
        while part := file.read(_PART):
            found.update(part)
    return found.hexdigest()


def io_error(what: str, error: OSError) -> StoreIOError:
    """What could not be done and why; keeps the error number."""
    raised = StoreIOError(f"{what}: {error.strerror or error}")
    raised.errno = error.errno
    return raised


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
