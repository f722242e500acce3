"""The direction of imports that ARCHITECTURE.md promises, in Rust and in Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DESCRIBED = (ROOT / "ARCHITECTURE.md").read_text()
PROMISES = next(line for line in DESCRIBED.splitlines() if line.startswith("Imports run one way"))


def promised(text: str) -> tuple[dict[str, set[str]], set[str]]:
    """What each room of a sentence imports, and what all do: `a → {b, c}`, `{a, b} → c`, all → `{d}`."""
    found: dict[str, set[str]] = {}
    for left, right in re.findall(r"`([^`→]+) → ([^`→]+)`", text):
        for room in names(left):
            assert room not in found, "a room's imports stand in one place"
            found[room] = names(right)
    for room in set().union(*found.values()) - found.keys():
        found[room] = set()
    (shared,) = re.findall(r"all → `([^`]+)`", text)
    return found, names(shared)


def names(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


_RUST, _PYTHON = PROMISES.split(" Python: ")
RUST, WORDS = promised(_RUST)
PYTHON, COMMON = promised(_PYTHON)
# Inside the kernels, lowest first: a room imports from its own and from those before it.
KERNELS = (
    {"lanes", "exp", "widen"},
    {"panel", "columns", "factors", "groups", "queries", "work"},
    {"portable"},
    {"x86"},
    {"isa", "cpu"},
    {"dispatch"},
    {"project", "accumulate", "activation", "attention", "norm", "rope", "peak", "stream", "spread"},
    {"neurons"},
)
# Rooms whose files all lie in one folder.
FLAT = ("store", "quant", "kernels/x86", "mem", "prefetch", "kv", "probe", "engine", "select")


def test_every_room_is_known() -> None:
    rooms = {path.name for path in (ROOT / "src").iterdir() if path.is_dir()} - WORDS
    assert rooms == RUST.keys()
    packages = {path.parent.name for path in (ROOT / "python/m2cache_rs").glob("*/__init__.py")}
    assert packages == PYTHON.keys()
    assert [room for room in rooms | packages if f"{room}/" not in DESCRIBED] == []


@pytest.mark.parametrize("room", RUST)
def test_rust_rooms_import_one_way(room: str) -> None:
    files = [path for path in (ROOT / "src" / room).rglob("*.rs") if not is_test(path)]
    found = {name for path in files for name in re.findall(r"\bcrate::(\w+)", product(path))}
    assert files
    assert found - WORDS - {room} == RUST[room]


def test_kernels_import_one_way() -> None:
    room = ROOT / "src/kernels"
    files = [path for path in room.rglob("*.rs") if not is_test(path) and path != room / "mod.rs"]
    rank = {name: i for i, names in enumerate(KERNELS) for name in names}
    found = {path.relative_to(room).parts[0].removesuffix(".rs"): set[str]() for path in files}
    assert found.keys() == rank.keys()
    for path in files:
        name = path.relative_to(room).parts[0].removesuffix(".rs")
        # The module of a file of dispatch/ is dispatch itself.
        found[name] |= kernels_named(product(path), path.parent in {room, room / "dispatch"})
    against = {(name, used) for name, names in found.items() for used in names if rank[used] > rank[name]}
    assert not against


@pytest.mark.parametrize("room", FLAT)
def test_files_of_a_room_import_without_circles(room: str) -> None:
    """`super` in a file of a room is the room; what mod.rs re-exports counts as the file it comes from."""
    files = {
        path.stem: product(path) for path in (ROOT / "src" / room).glob("*.rs") if "tests" not in path.stem
    }
    exported = {name: file for file, names in uses(files.pop("mod")) for name in names}
    reach = {
        name: {exported.get(used, used) for used, _ in uses(text)} & files.keys() - {name}
        for name, text in files.items()
    }
    assert any(reach.values())
    for _ in files:
        reach = {name: direct.union(*(reach[used] for used in direct)) for name, direct in reach.items()}
    assert not [name for name in files if name in reach[name]]


def uses(text: str) -> list[tuple[str, set[str]]]:
    """(module, names) of every path through `super` or, in a mod.rs, of every `pub use`."""
    text = re.sub(r"//.*", "", text)
    found = []
    for group in re.findall(r"\bsuper::\{([^;]*)\};", text):
        found += [(name, set[str]()) for name in re.findall(r"(?:^|,)\s*(\w+)", group)]
    for module, names in re.findall(
        r"\b(?:super|pub use|pub\(crate\) use)(?:::| )(\w+)(?:::([^;(]*))?", text
    ):
        found.append((module, set(re.findall(r"\w+", names))))
    return found


def kernels_named(text: str, top: bool) -> set[str]:
    """Rooms of the kernels that a source names; where it lies on `top`, `super` is the kernels."""
    text = re.sub(r"//.*", "", text)
    start = r"(?:crate::kernels|super)" if top else r"crate::kernels"
    names = {"isa" if name == "Isa" else name for name in re.findall(start + r"::(\w+)", text)}
    for group in re.findall(start + r"::\{([^;]*)\}", text):
        names |= {"isa" if name == "Isa" else name for name in re.findall(r"(?:^|,)\s*(\w+)", group)}
    return names & set().union(*KERNELS)


def is_test(path: Path) -> bool:
    return any("tests" in part for part in path.relative_to(ROOT).with_suffix("").parts)


def product(path: Path) -> str:
    """A source without its tests, which stand at the end of the file."""
    return path.read_text().partition("#[cfg(test)]\nmod tests {")[0].partition("#[cfg(test)]\n#[allow")[0]


@pytest.mark.parametrize("room", PYTHON)
def test_python_rooms_import_one_way(room: str) -> None:
    files = list((ROOT / "python/m2cache_rs" / room).glob("*.py"))
    pattern = re.compile(r"^\s*(?:from|import) m2cache_rs(?:\.(\w+))?(?: import (_core))?", re.MULTILINE)
    found = {one or core for path in files for one, core in pattern.findall(path.read_text())}
    assert files
    # The package itself is what its users import.
    assert found - COMMON - {room} == PYTHON[room] | ({""} if room == "cli" else set())
