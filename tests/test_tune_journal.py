"""What `m2cache tune` keeps of its measurements: an interrupted run goes on, and finds what another would."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from m2cache_rs import UsageError
from m2cache_rs.errors import StoreError
from m2cache_rs.recipe.profiles import opened
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.tune import journal as journals
from m2cache_rs.tune import model, run
from m2cache_rs.tune.frontier import Point
from m2cache_rs.tune.journal import Journal
from m2cache_rs.tune.layers import UNIFORM
from m2cache_rs.tune.meter import Meter
from m2cache_rs.tune.model import Settings, tuning
from m2cache_rs.tune.ranking import Ranking
from m2cache_rs.tune.text import Text

from tests.stores import Shown
from tests.tuning import TEXT

ABOUT = {"store": "id", "text": "digest"}
CHOICES = [*UNIFORM.values(), (0.0, 0.25, 0.75)]

# As the command, with a handful of choices a layer; says when it has measured a recipe.
CHILD = """
from m2cache_rs.cli.main import run as main
from m2cache_rs.tune import meter, run
from m2cache_rs.tune.layers import UNIFORM
run.options = lambda planes: [*UNIFORM.values(), (0.0, 0.25, 0.75)]
kept = meter.Meter._kept
def told(self, point):
    found = kept(self, point)
    print("measured", flush=True)
    return found
meter.Meter._kept = told
main()
"""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of choices a layer instead of thirty."""
    monkeypatch.setattr(run, "options", lambda planes: CHOICES)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was run, and not found."""
    found: list[str] = []

    def kept(self: Meter, point: Point) -> Point:
        found.append(point.how)
        self._journal.add(point)
        return point

    monkeypatch.setattr(Meter, "_kept", kept)
    return found


def points() -> Iterator[Point]:
    """Of a model of three layers."""
    for i in range(4):
        shares = tuple(CHOICES[i] if layer == 1 else UNIFORM[16] for layer in range(3))
        yield Point(f"layer {i}", shares, 0.1 / (i + 1), (0.05, 0.2) if i else None, 1.5, 7.25, 1e6 / 3, 4.5)


def kept(store: Path) -> list[Point]:
    """What a journal has, read again."""
    with Journal(store, ABOUT) as journal:
        return list(journal._points.values())


def fill(store: Path) -> Path:
    with Journal(store, ABOUT) as journal:
        for point in points():
            journal.add(point)
        return journal.path


def test_points_come_back_to_the_bit_and_by_the_name_that_is_asked_for(tmp_path: Path) -> None:
    fill(tmp_path)
    assert kept(tmp_path) == list(points())
    first = next(points())
    with Journal(tmp_path, ABOUT) as journal:
        found = journal.find("tuned", first.shares)
        assert found is not None
        assert (found.how, found.kl, found.interval) == ("tuned", first.kl, None)
        assert journal.find("", (UNIFORM[4],)) is None


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 2000))
def test_a_line_that_a_kill_cut_short_is_measured_again(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    store = tmp_path_factory.mktemp("store")
    path = fill(store)
    content = path.read_bytes()
    path.write_bytes(content[: at % len(content)])
    lines = content[: at % len(content)].count(b"\n")
    assert kept(store) == list(points())[: max(0, lines - 1)]
    assert list(path.parent.iterdir()) == [path]
    with Journal(store, ABOUT) as journal:
        for point in list(points())[len(journal) :]:
            journal.add(point)
    assert path.read_bytes() == content


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
def test_a_damaged_journal_is_set_aside(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    store = tmp_path_factory.mktemp("store")
    path = fill(store)
    content = bytearray(path.read_bytes())
    content[at % (len(content) - 1)] ^= 1 << bit
    path.write_bytes(content)
    found = kept(store)
    assert all(point in points() for point in found)
    # Damage of a line's end takes the next line as well, that of the first line all.
    assert len(found) in (0, 2, 3)
    assert path.with_name(f"{path.name}.damaged").read_bytes() == content
    assert kept(store) == found


def test_damage_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = fill(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"layer 2", b"layer 9"))
    assert [point.how for point in kept(tmp_path)] == ["layer 0", "layer 1", "layer 3"]
    assert f"{path} is damaged: it is now {path.name}.damaged, and 3 measurements" in caplog.text


def test_one_process_has_it(tmp_path: Path) -> None:
    fill(tmp_path)
    with (
        Journal(tmp_path, ABOUT),
        pytest.raises(UsageError, match="another process measures the same"),
        Journal(tmp_path, ABOUT),
    ):
        pass
    with Journal(tmp_path, {**ABOUT, "text": "another"}) as other:
        assert len(other) == 0
    assert len(kept(tmp_path)) == 4


def test_without_a_place_nothing_is_kept_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "profiles").write_text("a file")
    with Journal(tmp_path, ABOUT) as journal:
        journal.add(next(points()))
        assert journal.find("", next(points()).shares) is not None
    assert caplog.text.count("measurements cannot be kept in") == 1


@pytest.mark.parametrize("name", ["kl", "entropy", "perplexity", "bytes", "bits", "interval"])
@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_what_is_no_number_is_not_kept(tmp_path: Path, name: str, wrong: float) -> None:
    path = fill(tmp_path)
    before = path.read_bytes()
    changed: dict[str, Any] = {name: (0.0, wrong) if name == "interval" else wrong}
    with Journal(tmp_path, ABOUT) as journal:
        journal.add(replace(next(points()), shares=(UNIFORM[8],) * 3, **changed))
        assert (len(journal), journal.is_kept) == (4, True)
    assert path.read_bytes() == before


FIELDS: dict[str, list[Any]] = {
    "kl": ["abc", None, [1], True, 10**400],
    "interval": [[0.1], "ab", [0.1, "x"], 0],
    "how": [3, None],
    "shares": [
        [],
        [[1, 1.0, 0.0]],
        [[1, [1.0], 0.0, 0.0]],
        [[1.0, 1.0, 0.0, 0.0]],
        [[-1, 1.0, 0.0, 0.0]],
        [[1 << 62, 1.0, 0.0, 0.0]],
        [3],
        "abc",
    ],
    "other": [1],
}


@pytest.mark.parametrize(("name", "wrong"), [(name, one) for name in FIELDS for one in FIELDS[name]])
def test_a_line_of_wrong_types_is_damaged_though_its_checksum_is_right(
    tmp_path: Path, name: str, wrong: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = fill(tmp_path)
    first, second, *rest = path.read_bytes().split(b"\n")
    value = {**json.loads(second[9:]), name: wrong}
    path.write_bytes(b"\n".join([first, journals._line(value)[:-1], *rest]))
    with pytest.raises(StoreError, match=f"{path} is damaged in line 2"):
        journals.check(path, "id")
    assert [point.how for point in kept(tmp_path)] == ["layer 1", "layer 2", "layer 3"]
    assert f"{path} is damaged" in caplog.text


def test_a_pipe_of_its_name_is_refused(tmp_path: Path) -> None:
    path = fill(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match=f"{path} is no regular file; remove it"):
        kept(tmp_path)
    with pytest.raises(StoreError, match=f"{path} is no regular file; remove it"):
        journals.check(path, "id")


@pytest.mark.parametrize("cut", [0, 3])
def test_what_cannot_be_written_is_used(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A store on a medium that is mounted read-only; nothing denies root anything else."""
    path = fill(tmp_path)
    path.write_bytes(path.read_bytes()[: -cut or None])
    before = path.read_bytes()

    def read_only(path: Path, flags: int = os.O_RDONLY) -> FileIO:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags)

    monkeypatch.setattr(journals, "opened", read_only)
    with Journal(tmp_path, ABOUT) as journal:
        assert (len(journal), journal.is_kept) == (4 - bool(cut), False)
        journal.add(Point("new", (UNIFORM[8],) * 3, 0.1, None, 1.0, 9.0, 1e6, 8.0))
    assert path.read_bytes() == before
    assert f"{4 - bool(cut)} that are known serve, and no more are kept" in caplog.text
    with Journal(tmp_path, ABOUT, restart=True) as journal:
        assert len(journal) == 0


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("stop", [2, 9])
def test_an_interrupted_run_goes_on_and_finds_the_same(
    stop: int, store: Path, text: Path, shown: Shown, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["tune", store, "--force", "--text", text, "--tokens", 64, "--json", "--bits", 5.5]
    code, whole, err = shown(*command)
    assert code == 0, err
    all_of_them = list(measured)
    shutil.rmtree(store / "profiles")
    measured.clear()
    add = Journal.add

    def interrupting(self: Journal, point: Point) -> None:
        add(self, point)
        if len(measured) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", interrupting)
    code, _, err = shown(*command)
    assert code == 130
    assert f"{stop} recipes are measured and kept: the same command goes on" in err
    monkeypatch.setattr(Journal, "add", add)
    code, again, err = shown(*command)
    assert f"{stop} recipes were measured before on this text: going on with {store}/profiles/tuning-" in err
    assert (code, again) == (0, whole)
    assert measured == all_of_them
    measured.clear()
    code, again, _ = shown(*command, "--threads", 1, "--cache", "8MiB")
    assert (code, again, measured) == (0, whole, [])
    code, again, _ = shown(*command, "--restart")
    assert (code, again, measured) == (0, whole, all_of_them)


@pytest.mark.usefixtures("few")
def test_what_one_goal_measured_serves_the_next(store: Path, measured: list[str]) -> None:
    def dial(**options: Any) -> Any:
        with tuning(store, TEXT, Settings(tokens=64), lambda done, total: None, **options) as run:
            return {name: one.to_dict() for name, one in run.dial().items()}

    with tuning(store, TEXT, Settings(tokens=64), lambda done, total: None) as run:
        run.tuner.within(run.uniform[8].bytes)
    single = sum(how.startswith("layer") for how in measured)
    assert single > 10
    measured.clear()
    found = dial()
    assert 0 < len(measured) < 10
    assert not any(how.startswith("layer") for how in measured)
    assert dial(restart=True) == found


@pytest.mark.usefixtures("few")
def test_another_text_or_level_is_measured_of_itself(store: Path, measured: list[str]) -> None:
    def measure(text: str, **settings: Any) -> int:
        measured.clear()
        with tuning(store, text, Settings(tokens=32, **settings), lambda done, total: None):
            return len(measured)

    assert [measure(TEXT), measure(TEXT)] == [3, 0]
    assert measure(TEXT + "What lies beyond the tokens is not run.") == 0
    assert measure("And " + TEXT) == 3
    assert measure(TEXT, precision="attn=8") == 3
    assert measure(TEXT, prompt_bits=8) == 3
    assert measure(TEXT, threads=1, cache="8MiB") == 0
    assert len(list((store / "profiles").glob("tuning-*.journal"))) == 4


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.usefixtures("few")
def test_a_signal_loses_no_more_than_what_is_being_measured(
    sign: signal.Signals, store: Path, text: Path, shown: Shown, measured: list[str]
) -> None:
    command = [sys.executable, "-c", CHILD, "tune", store, "--force", "--text", text, "--tokens", "64"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(6):
            assert child.stdout.readline() == b"measured\n"
        child.send_signal(sign)
        assert child.wait() != 0
        more = child.stdout.read().count(b"measured\n")
    code, _, err = shown("tune", store, "--force", "--text", text, "--tokens", 64)
    assert code == 0, err
    (journal,) = (store / "profiles").glob("tuning-*.journal")
    before = int(err.split(" recipes were measured before")[0].split()[-1])
    # The last one may have been kept, and its word not said.
    assert 6 + more <= before <= 7 + more
    assert len(measured) + before == journal.read_bytes().count(b"\n") - 1
    found = (store / "profiles/recipes.json").read_bytes()
    code, _, err = shown("tune", store, "--force", "--text", text, "--tokens", 64, "--restart")
    assert (code, (store / "profiles/recipes.json").read_bytes()) == (0, found)
    assert json.loads(found)["recipes"].keys() == {"high", "balanced", "fast"}


def test_another_core_or_candidates_measure_anew(
    tale: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core that was built anew has the old version, and may have other bits."""
    core = tmp_path / "core.so"

    def place(built: bytes, ranking: Ranking) -> Path:
        core.write_bytes(built)
        return Journal(tmp_path, model._about(Opened(tale), Text(()), Recipe.dense(16), ranking, {})).path

    monkeypatch.setattr(model._core, "__file__", str(core))
    rankings = (Ranking(), Ranking("cascade", "svd"), Ranking("cascade", "svd", 0.5))
    found = [place(built, ranking) for built in (b"one", b"two") for ranking in rankings]
    assert len(set(found)) == len(found)
    assert place(b"one", Ranking()) == found[0]
