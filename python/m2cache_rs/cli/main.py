"""The console script: as little as possible is imported before an interrupt can be answered."""

from __future__ import annotations

import os
import resource
import sys

_INTERRUPTED = 130
# The Rust core computes; of all commands only this one multiplies matrices with numpy.
_MULTIPLIES = "profile"
# Below this numpy crashes, hangs or fails by turns as it is imported, wherever the limit falls.
_LEAST_SPACE = 256 << 20


def run() -> None:
    """Runs the command line of this process and ends it."""
    try:
        _check_space()
        _quieten_blas()
        code = _code()
    except KeyboardInterrupt:
        sys.stderr.write("m2cache: interrupted\n")
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        # CPython remembers an interrupt of code run from a string (importing dataclasses does that)
        # and then ends by the signal instead of the exit code. Everything has been cleaned up by here.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _code() -> int | str | None:
    try:
        from m2cache_rs.cli.program import main

        return main(sys.argv[1:])
    except SystemExit as ended:
        return ended.code


def _check_space() -> None:
    """Ends in one line where `ulimit -v` leaves less than the libraries need."""
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY and space < _LEAST_SPACE:
        sys.stderr.write(
            f"m2cache: error: ulimit -v leaves {space >> 10} KiB of address space; the libraries need "
            f"{_LEAST_SPACE >> 10} at least, and a model more: raise it, and cap memory with --dram\n"
        )
        sys.exit(2)


def _quieten_blas() -> None:
    """One thread for numpy's OpenBLAS, before numpy is imported.

    Its others would idle here, and under `ulimit -v` they crash or wait without end where they find no room.
    """
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    if limited or sys.argv[1:2] != [_MULTIPLIES]:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
