"""The least `--dram` that a command names works the first time, and the process keeps to it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from m2cache_rs import UsageError
from m2cache_rs.runtime.session import Model

from tests.stores import EXAMPLE

TEXT = ("--text", EXAMPLE / "README.md", "--tokens", 300)
COMMANDS: dict[str, tuple[object, ...]] = {
    "eval beside a reference": ("eval", *TEXT),
    "eval of neurons": ("eval", *TEXT, "--select", "plane", "--bands", "25/25/50"),
    "eval in one model": ("eval", *TEXT, "--precision", 4, "--kv", "f32"),
    "tune": ("tune", *TEXT, "--objective", "entropy", "--bits", 6),
    "profile": ("profile", *TEXT, "--rank", 8),
    "profile of heads": ("profile", *TEXT, "--no-predictors", "--query-heads"),
}
CHILD = """
import sys
from m2cache_rs.cli.program import main
from m2cache_rs.machine.memory import peak_rss
code = main(sys.argv[1:])
print("peak", peak_rss())
sys.exit(code)
"""


@pytest.fixture
def store(tale: Path, tmp_path: Path) -> Path:
    """A copy whose profiles are this test's own."""
    copy = tmp_path / "tale.m2c"
    shutil.copytree(tale, copy, copy_function=os.link, ignore=shutil.ignore_patterns("profiles"))
    return copy


def run(command: tuple[object, ...], store: Path, dram: int) -> subprocess.CompletedProcess[str]:
    name, *options = command
    arguments = [sys.executable, "-c", CHILD, name, store, *options, "--dram", dram, "--json"]
    return subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_least_that_is_named_works(name: str, store: Path) -> None:
    refused = run(COMMANDS[name], store, 1 << 20)
    assert refused.returncode == 2
    found = re.search(r"the least that works is (\d+) bytes", refused.stderr)
    assert found is not None, refused.stderr
    least = int(found[1])
    done = run(COMMANDS[name], store, least)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) <= least
    # Somewhat less is refused, so that the least is no mere guess.
    assert run(COMMANDS[name], store, least * 3 // 4).returncode == 2


def test_a_closed_model_gives_its_weights_back(tale: Path) -> None:
    code = f"""
from m2cache_rs import Model
from m2cache_rs.machine.memory import rss
model = Model.open({str(tale)!r}, precision=16)
model.logits(list(range(1, 100)))
before = rss()
model.close()
print(before - rss())
"""
    freed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(freed) > 8 << 20


def test_a_closed_model_stays_closed(tale: Path) -> None:
    with Model.open(tale, serves=["exact"]) as model:
        other = model.serving(quality="exact")
    for one in (model, other):
        with pytest.raises(UsageError, match="closed"):
            one.logits([1, 2])
