"""What every command shares: exit codes, one-line errors, JSON, progress."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from m2cache_rs.errors import BudgetError, M2CacheError, less

if TYPE_CHECKING:
    from m2cache_rs.cli.bar import Show

ERROR = 2
INTERRUPTED = 130
# What a shell reports for a program that SIGPIPE ended.
BROKEN_PIPE = 141
_WAYS = (("dram", "a smaller {}"), ("cache", "a smaller {}"), ("precision", "a lower {}"))
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def make_streams_safe() -> None:
    """Closed standard streams become /dev/null; what an encoding cannot spell is replaced."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  they live as long as the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@contextmanager
def exit_codes(options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turns what a command raises into one line on stderr and the promised exit code (a decorator, too).

    `options`: the command's, by name.
    """
    named = options or {}
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        stop(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        _forget_stdout()
        raise SystemExit(BROKEN_PIPE) from None
    except MemoryError:
        stop(ERROR, "; ".join(filter(None, ["error: out of memory", less(_WAYS, named)])))
    except (ImportError, SystemError) as error:
        # SystemError: a library that lost the MemoryError of its own loading.
        if not _mapping_refused():
            raise
        reason = str(error).strip().splitlines()[-1].removeprefix("Original error was: ")
        stop(ERROR, f"error: ulimit -v leaves too little address space for the libraries: {reason}")
    except BudgetError as error:
        stop(ERROR, f"error: {error.told(named)}")
    except M2CacheError as error:
        stop(ERROR, f"error: {error}")
    except OSError as error:
        stop(ERROR, f"error: {_reason(error)}")


def _mapping_refused() -> bool:
    """Whether address space is limited: then a library that is there may still not be mapped."""
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _reason(error: OSError) -> str:
    """What the system refused. Of all that a command writes only standard output has no name in its error."""
    if error.filename is None and error.errno in _UNWRITABLE:
        return f"standard output cannot be written: {error.strerror}"
    return str(error)


def stop(code: int, message: str) -> NoReturn:
    """One line on stderr, then the end."""
    note(message)
    raise SystemExit(code) from None


def note(message: str) -> None:
    """One line on stderr."""
    with _quiet_pipe():
        print(f"m2cache: {one_line(message)}", file=sys.stderr, flush=True)


def lines(some: Iterable[str]) -> None:
    """Lines of a table on stderr."""
    with _quiet_pipe():
        print("\n".join(map(one_line, some)), file=sys.stderr, flush=True)


def show_warnings() -> None:
    """What the package logs (a capped cache, a fallback) becomes one line on stderr, each said once."""
    import logging

    said: set[str] = set()

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (text := record.getMessage()) not in said:
                said.add(text)
                note(f"warning: {text}")

    logging.getLogger("m2cache_rs").handlers = [Notes(logging.WARNING)]


def one_line(text: str) -> str:
    """`text` with its control characters shown, not obeyed: they may come from a hostile file name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def _quiet_pipe() -> Iterator[None]:
    try:
        yield
    except OSError:  # nobody reads, or a full disk: the exit code says the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _forget_stdout() -> None:
    """Nobody reads any more: what is buffered goes nowhere, so the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: dict[str, Any]) -> None:
    """One object on stdout; what is no finite number is null."""
    print(json.dumps(_finite(value), indent=2))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {one_line(value)}")


def count(number: int, noun: str) -> str:
    """A number of things: 1 file, 2 files."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def ticker(label: str) -> Iterator[Callable[[float], None] | None]:
    """A line on stderr where that is a terminal, and None else; yields what is told the share done, 0 to 1.

    Redrawn at most ten times a second and wiped at the end of the work or of the context. It needs no import:
    what it took would have to be found in a budget.
    """
    if not sys.stderr.isatty():
        yield None
        return
    drawn = 0.0

    def show(share: float) -> None:
        nonlocal drawn
        if share >= 1:
            wipe()
        elif time.monotonic() - drawn > 0.1:
            drawn = time.monotonic()
            print(f"\r{label} {share:4.0%}", end="", file=sys.stderr, flush=True)

    def wipe() -> None:
        nonlocal drawn
        if drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        drawn = 0.0

    try:
        yield show
    finally:
        wipe()


@contextmanager
def progress(label: str, total: int | None = None, unit: str = "bytes") -> Iterator[Show]:
    """A bar on a terminal, else a line on stderr now and then; yields what is told how much is done."""
    if not sys.stderr.isatty():
        from m2cache_rs.cli.lines import Lines

        yield Lines(label, total, unit, note)
        return
    from m2cache_rs.cli.bar import bar

    with bar(label, total, unit) as show:
        yield show
