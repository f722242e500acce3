"""kill -9 at any point of a conversion: the target is absent or complete, and a second run completes it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from m2cache_rs import _core
from m2cache_rs.convert import convert

from tests.sources import contents, is_sound, make

POINTS = 20

# Counts what Python calls and what it calls in C, and dies at the given count: points spread over the work
# rather than over time. Rust writes a whole tile between two of them; the kills by the clock fall into those.
CHILD = """
import os, signal, sys
from m2cache_rs.convert import convert
source, target, force, deadly = sys.argv[1], sys.argv[2], sys.argv[3] == "force", int(sys.argv[4])
watched, stripe = sys.argv[5], sys.argv[6:]
seen = 0
def count(frame, event, what):
    global seen
    name = event + " " + getattr(what, "__name__", "")
    if "m2cache_rs" in frame.f_code.co_filename and watched in ("anything", name):
        seen += 1
        if seen == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(count)
convert(source, target, force=force, equalize=True, stripe=stripe, notify=lambda _: None)
sys.setprofile(None)
print(seen)
"""


def run(
    source: Path,
    target: Path,
    deadly: int,
    force: bool = False,
    stripe: Sequence[Path] = (),
    watched: str = "anything",
) -> subprocess.CompletedProcess[str]:
    arguments = [source, target, "force" if force else "new", deadly, watched, *stripe]
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("kill") / "model")


@pytest.fixture(scope="module")
def whole(source: Path) -> dict[str, bytes]:
    """What an undisturbed conversion makes."""
    convert(source, source.with_name("whole.m2c"), equalize=True)
    return contents(source.with_name("whole.m2c"))


@pytest.fixture(scope="module")
def events(source: Path) -> int:
    """How many calls a conversion makes."""
    result = run(source, source.with_name("counted.m2c"), -1)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.parametrize("part", range(POINTS))
def test_a_kill_leaves_nothing_or_all(
    part: int, source: Path, whole: dict[str, bytes], events: int, tmp_path: Path
) -> None:
    target = tmp_path / "tiny.m2c"
    deadly = random.Random(part).randint(part * events // POINTS + 1, (part + 1) * events // POINTS)
    assert run(source, target, deadly).returncode == -signal.SIGKILL
    if target.exists():
        assert contents(target) == whole
    convert(source, target, equalize=True, force=target.exists(), notify=lambda _: None)
    assert contents(target) == whole
    assert is_sound(target)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.m2c"]


@pytest.mark.parametrize("back", [1, 2, 4, 8, 16, 32, 64])
def test_a_kill_at_the_end_of_a_replacement_leaves_the_old_or_the_new(
    back: int, source: Path, whole: dict[str, bytes], events: int, tmp_path: Path
) -> None:
    target = tmp_path / "tiny.m2c"
    convert(source, target, planes="base")
    old = contents(target)
    assert run(source, target, events - back, force=True).returncode == -signal.SIGKILL
    assert contents(target) in (old, whole)
    convert(source, target, equalize=True, force=True, notify=lambda _: None)
    assert contents(target) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.m2c"]


def measured(source: Path, target: Path) -> Path:
    """A store that hours were spent on."""
    convert(source, target, equalize=True)
    (target / "profiles").mkdir()
    (target / "profiles/recipes.json").write_text("hours")
    return target


@pytest.fixture(scope="module")
def measured_events(source: Path) -> int:
    """How many calls it takes to replace such a store by the same."""
    result = run(source, measured(source, source.with_name("measured.m2c")), -1, force=True)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.parametrize("back", [1, 2, 4, 8, 16, 32, 64])
def test_a_kill_at_the_end_of_a_replacement_loses_nothing_that_was_measured(
    back: int, source: Path, whole: dict[str, bytes], measured_events: int, tmp_path: Path
) -> None:
    target = measured(source, tmp_path / "tiny.m2c")
    assert run(source, target, measured_events - back, force=True).returncode == -signal.SIGKILL
    assert (target / "profiles/recipes.json").read_text() == "hours"
    convert(source, target, equalize=True, force=True, notify=lambda _: None)
    assert (target / "profiles/recipes.json").read_text() == "hours"
    assert weights_of(target) == only_weights(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.m2c"]


def weights_of(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("*.safetensors")}


def test_kills_again_and_again_never_lose_a_finished_file(
    source: Path, whole: dict[str, bytes], events: int, tmp_path: Path
) -> None:
    target, finished = tmp_path / "tiny.m2c", 0
    for deadly in [events // 2, events // 2, events // 2]:
        assert run(source, target, deadly).returncode == -signal.SIGKILL
        if target.exists():
            break
        journal = json.loads((tmp_path / "tiny.m2c.partial/convert.journal").read_text())
        assert len(journal["entries"]) >= finished
        finished = len(journal["entries"])
    assert finished > 0
    if not target.exists():
        assert convert(source, target, equalize=True, notify=lambda _: None).resumed_files > 0
    assert contents(target) == whole


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "a", tmp_path / "b"]
    for path in found:
        path.mkdir()
    return found


@pytest.fixture(scope="module")
def striped_events(source: Path) -> int:
    """How many calls a striped conversion makes."""
    disks = [source.with_name("disk-a"), source.with_name("disk-b")]
    for disk in disks:
        disk.mkdir()
    result = run(source, source.with_name("striped.m2c"), -1, stripe=disks)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def striped_weights(store: Path) -> dict[str, bytes]:
    """The files of weights of a sound striped store."""
    assert is_sound(store)
    roots = _core.Store(str(store)).roots()
    return {path.name: path.read_bytes() for root in roots for path in Path(root).glob("*.safetensors")}


def only_weights(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.endswith(".safetensors")}


def check_disks(disks: list[Path], stripe: list[Path]) -> None:
    """One root on each disk of the stripe, nothing on the others."""
    assert [len(list(disk.iterdir())) for disk in disks] == [int(disk in stripe) for disk in disks]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("then", ["the same", "other stripes", "none"])
def test_a_kill_of_a_striped_conversion(
    share: float, then: str, source: Path, whole: dict[str, bytes], striped_events: int, tmp_path: Path,
    disks: list[Path],
) -> None:  # fmt: skip
    """Nothing that opens, or the finished store; and what follows leaves no directory behind."""
    target = tmp_path / "tiny.m2c"
    assert run(source, target, int(share * striped_events), stripe=disks).returncode == -signal.SIGKILL
    assert not target.exists() or striped_weights(target) == only_weights(whole)
    stripe = {"the same": disks, "other stripes": disks[1:], "none": []}[then]
    convert(source, target, force=True, stripe=stripe, notify=lambda _: None)
    assert striped_weights(target) == only_weights(whole)
    check_disks(disks, stripe)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "tiny.m2c"]


@pytest.mark.parametrize("event", ["c_call publish", "c_return publish"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_kill_while_a_striped_store_is_replaced(
    nth: int, event: str, source: Path, whole: dict[str, bytes], tmp_path: Path, disks: list[Path]
) -> None:
    """Before and behind each rename: the old store or the new one is there, with all of its roots."""
    target = tmp_path / "tiny.m2c"
    convert(source, target, planes="base", stripe=disks, notify=lambda _: None)
    old = striped_weights(target)
    killed = run(source, target, nth, force=True, stripe=disks, watched=event)
    assert killed.returncode == -signal.SIGKILL
    assert striped_weights(target) in (old, only_weights(whole))
    convert(source, target, force=True, stripe=disks[:1], notify=lambda _: None)
    assert striped_weights(target) == only_weights(whole)
    check_disks(disks, disks[:1])


def test_kills_by_the_clock(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """At points that no count of calls reaches: inside the writer, inside a sync, inside the rename."""
    target = tmp_path / "tiny.m2c"
    command = [sys.executable, "-c", CHILD, str(source), str(target), "new", "-1", "anything"]
    begun = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    lasts = time.monotonic() - begun
    for part in range(6):
        for path in tmp_path.iterdir():
            subprocess.run(["rm", "-r", str(path)], check=True)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(lasts * (0.5 + part / 10))
        child.kill()
        child.wait()
        assert not target.exists() or contents(target) == whole
        if not target.exists():
            convert(source, target, equalize=True, notify=lambda _: None)
        assert contents(target) == whole
