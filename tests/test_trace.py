"""Traces: what a file may hold, and what replays make of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs._core import replay
from m2cache_rs.errors import StoreIOError, UsageError

REPLAY = Path(__file__).parents[1] / "benches/replay.py"
# Three layers of four equal blocks of a page, swept once by a prompt and then by three tokens.
BLOCKS = [{"section": "gate.base", "layer": layer, "bytes": 4096, "count": 4} for layer in range(3)]
SWEEP = "".join(f"{block}*\n" for block in range(12))


def header(**changes: Any) -> str:
    fields = {"format": "m2cache-trace", "version": 1, "store": None, "levels": None, "synthetic": None}
    return json.dumps(fields | {"blocks": BLOCKS} | changes) + "\n"


def write(path: Path, body: str, **changes: Any) -> Path:
    path.write_text(header(**changes) + body)
    return path


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return write(tmp_path / "dense.trace", f"prompt 5\n{SWEEP}" + f"decode 1\n{SWEEP}" * 3)


@pytest.mark.parametrize(("policy", "hits"), [("fixed", 18), ("lru", 0), ("fifo", 9), ("lfu", 18)])
def test_half_of_a_dense_model(dense: Path, policy: str, hits: int) -> None:
    outcome = json.loads(replay(dense, policy, 6 * 4096))
    assert outcome["all_bytes"] == 12 * 4096
    assert outcome["prompt"]["rows"] == 5
    assert outcome["decode"]["passes"] == 3
    assert outcome["decode"]["hits"] == hits
    assert outcome["decode"]["read_bytes"] == (36 - hits) * 4096
    assert outcome["decode"]["recorded_read_bytes"] == 36 * 4096


def test_broken_traces_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    with pytest.raises(StoreIOError, match=r"opening .*a\.trace"):
        replay(path, "lru", 0)
    for text, message in [
        ("", "line 1: the file is empty"),
        ("{}\n", "line 1: no header of a trace: missing field"),
        (header(version=9), "line 1: .* version 9; .* version 1 is read"),
        (header(blocks=[]), "line 1: declares no blocks"),
        (header() + "decode 1\n12\n", "line 3: names block 12 of 12"),
        (header() + "decode 1\n0 1", "line 3: has no end: .* remove this line"),
    ]:
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            replay(path, "lru", 0)
    with pytest.raises(UsageError, match=r"no policy \"arc\"; fixed, lru, fifo, lfu are known"):
        replay(path, "arc", 0)
    with pytest.raises(StoreIOError):
        replay(tmp_path, "lru", 0)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPLAY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_program_prints_a_table(dense: Path) -> None:
    done = run(dense, "--dram", "24KiB,48KiB", "--policies", "fixed,lru")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "| cache | share | fixed | lru |",
        "| --- | --- | --- | --- |",
        "| 24.0 KiB | 50% | 50.0% | 0.0% |",
        "| 48.0 KiB | 100% | 100.0% | 100.0% |",
    ]


def test_made_up_accesses_are_labelled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.trace", f"decode 1\n{SWEEP}", synthetic={"share": 0.2, "seed": 1})
    done = run(path)
    assert done.stdout.startswith('SYNTHETIC accesses, made up by {"share": 0.2, "seed": 1}')
    assert json.loads(run(path, "--json").stdout)["synthetic"] == {"share": 0.2, "seed": 1}


def test_the_program_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = run(write(tmp_path / "a.trace", "0\n"))
    assert done.returncode != 0
    assert (
        done.stderr == f"error: {tmp_path}/a.trace, line 2: comes before any pass (prompt, decode or draft)\n"
    )
