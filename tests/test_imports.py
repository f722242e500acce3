"""The direction of imports that ARCHITECTURE.md promises, in Rust and in Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = {"types", "error", "config"}
RUST = {
    "python": {"engine", "store", "kv", "probe", "tier"},
    "engine": {"prefetch", "tier", "io", "kernels", "kv", "store", "quant"},
    "probe": {"io", "mem", "kernels", "quant"},
    "prefetch": {"tier", "io", "mem"},
    "io": {"mem"},
    "store": {"quant"},
    "kernels": {"quant"},
    "tier": set(),
    "mem": set(),
    "kv": {"mem"},
    "quant": set(),
}
PYTHON = {
    "cli": {"convert", "eval", "runtime", "models", "_core", "config", "errors", ""},
    "eval": {"runtime", "models", "_core", "config", "errors"},
    "runtime": {"models", "_core", "config", "errors"},
    "convert": {"models", "_core", "config", "errors"},
    "models": {"errors"},
}


@pytest.mark.parametrize("room", RUST)
def test_rust_rooms_import_one_way(room: str) -> None:
    files = [path for path in (ROOT / "src" / room).rglob("*.rs") if "tests" not in path.stem]
    found = {name for path in files for name in re.findall(r"\bcrate::(\w+)", product(path))}
    assert files
    assert found <= RUST[room] | WORDS | {room}


def product(path: Path) -> str:
    """A source without its tests, which stand at the end of the file."""
    return path.read_text().partition("#[cfg(test)]\nmod tests {")[0].partition("#[cfg(test)]\n#[allow")[0]


@pytest.mark.parametrize("room", PYTHON)
def test_python_rooms_import_one_way(room: str) -> None:
    files = list((ROOT / "python/m2cache_rs" / room).glob("*.py"))
    pattern = re.compile(r"^\s*(?:from|import) m2cache_rs(?:\.(\w+))?(?: import (_core))?", re.MULTILINE)
    found = {one or core for path in files for one, core in pattern.findall(path.read_text())}
    assert files
    assert found <= PYTHON[room] | {room}
