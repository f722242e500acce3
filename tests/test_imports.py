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
# Inside the kernels, lowest first: a room imports from its own and from those before it.
KERNELS = (
    {"isa", "lanes", "exp", "widen"},
    {"panel", "columns", "factors", "queries", "work"},
    {"portable"},
    {"x86"},
    {"dispatch"},
    {"project", "accumulate", "activation", "attention", "norm", "rope", "peak", "stream"},
)
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


def test_kernels_import_one_way() -> None:
    room = ROOT / "src/kernels"
    files = [path for path in room.rglob("*.rs") if "tests" not in path.stem and path != room / "mod.rs"]
    rank = {name: i for i, names in enumerate(KERNELS) for name in names}
    found = {path.relative_to(room).parts[0].removesuffix(".rs"): set[str]() for path in files}
    assert found.keys() == rank.keys()
    for path in files:
        name = path.relative_to(room).parts[0].removesuffix(".rs")
        # The module of a file of dispatch/ is dispatch itself.
        found[name] |= kernels_named(product(path), path.parent in {room, room / "dispatch"})
    against = {(name, used) for name, names in found.items() for used in names if rank[used] > rank[name]}
    assert not against


def kernels_named(text: str, top: bool) -> set[str]:
    """Rooms of the kernels that a source names; where it lies on `top`, `super` is the kernels."""
    text = re.sub(r"//.*", "", text)
    start = r"(?:crate::kernels|super)" if top else r"crate::kernels"
    names = {"isa" if name == "Isa" else name for name in re.findall(start + r"::(\w+)", text)}
    for group in re.findall(start + r"::\{([^;]*)\}", text):
        names |= {"isa" if name == "Isa" else name for name in re.findall(r"(?:^|,)\s*(\w+)", group)}
    return names & set().union(*KERNELS)


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
