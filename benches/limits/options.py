"""The command line of both benches, and what comes of it: shapes, the peer, a folder for files, a result."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m2cache_rs.errors import M2CacheError
from shape import Shape

from limits.peer.program import Peer, PeerError

SHAPES = ("llama-2-7b", "llama-3-8b")
RESULTS = Path(__file__).resolve().parents[1] / "results"


def parser(name: str, doc: str | None, repeats: int) -> argparse.ArgumentParser:
    """With the options that both have; `repeats`: rounds unless told otherwise."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add(
        "--shape",
        action="append",
        help=f"a name or a config.json, may be repeated (default: {', '.join(SHAPES)})",
    )
    add("--new-tokens", type=int, default=64, help="decoded tokens (default 64)")
    add("--repeats", type=int, default=repeats, help=f"rounds of all programs (default {repeats})")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--no-peer", action="store_true", help="without llama.cpp")
    add(
        "--llama-python",
        type=Path,
        metavar="PATH",
        help="a Python that has llama_cpp and gguf (default: built)",
    )
    work = Path(f"{name}.work")
    add("--work", type=Path, default=work, help=f"for what is made (default ./{work})")
    add("--out", type=Path, default=RESULTS / f"{name}.json", help="the JSON file of results")
    return made


def shapes(chosen: argparse.Namespace) -> list[Shape]:
    """Raises as `Shape.of` does."""
    return [Shape.of(text) for text in chosen.shape or SHAPES]


def peer(chosen: argparse.Namespace) -> Peer | None:
    """None where none is wanted. Raises `PeerError`."""
    return None if chosen.no_peer else Peer.at(chosen.llama_python)


def work(chosen: argparse.Namespace) -> Path:
    """The folder for files, which is there now."""
    chosen.work.mkdir(parents=True, exist_ok=True)
    found: Path = chosen.work.resolve()
    return found


# A list of numbers, over several lines.
_NUMBERS = re.compile(r"\[([-+.\deE,\s]+)\]")


def write(path: Path, measured: Sequence[Any], **more: Any) -> None:
    """The figures and every run they come from."""
    rows = [{"summary": one.summary(), **asdict(one)} for one in measured]
    keep(path, {"label": "synthetic weights", **more, "measured": rows})


def keep(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_NUMBERS.sub(_on_a_line, json.dumps(result, indent=1)) + "\n")


def _on_a_line(numbers: re.Match[str]) -> str:
    return "[" + ", ".join(one.strip() for one in numbers[1].split(",")) + "]"


def run(name: str, main: Callable[[], None], errors: Iterable[type[Exception]], left: str) -> None:
    """Runs the program; what stops it is told in one line, `left` says what an interruption leaves."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (M2CacheError, OSError, PeerError, *errors) as error:
        sys.exit(f"{name}: error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted; {left}")
