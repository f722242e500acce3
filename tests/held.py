"""Programs that cannot end before a test lets them, so that a slow machine changes nothing."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOM = 64
"""Bytes that a held program can print; a write of more waits for a reader, as every one behind it."""

_PATIENCE = 60.0


@contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is killed at the end, if it has not ended by then."""
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def held(command: Sequence[str | Path]) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose standard output is a pipe of one page, full but for `ROOM` bytes.

    What it prints comes behind as many zeros as fill the page; reading lets it go on.
    """
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1)
    os.write(writer, bytes(size - ROOM))
    with started(command, stdout=writer) as process:
        os.close(writer)
        process.stdout = os.fdopen(reader, "rb", buffering=0)
        yield process


def wait_until(process: subprocess.Popen[bytes], holds: Callable[[], bool]) -> None:
    """Returns when something holds; AssertionError where the program ends without, or never gets there."""
    limit = time.monotonic() + _PATIENCE
    while not holds():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < limit, "the program never got so far"
        time.sleep(0.01)


def wait_for_output(process: subprocess.Popen[bytes]) -> None:
    """Returns when a held program has printed something."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    empty = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) - ROOM
    wait_until(process, lambda: _filled(pipe) > empty)


def let_go(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Reads on to the end of the program: all of its standard output and error."""
    out, err = process.communicate(timeout=_PATIENCE)
    return (out or b"").lstrip(b"\0").decode(), err.decode()


def _filled(pipe: int) -> int:
    """Bytes in a pipe."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])
