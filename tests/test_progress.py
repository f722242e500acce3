"""Progress without a terminal: lines that are few, and none where it does not take long."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
from m2cache_rs.cli import lines, output
from m2cache_rs.cli.lines import Lines, duration


class Clock:
    """Stands still but when it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(lines, "time", found)
    return found


def run(clock: Clock, total: int, seconds: float, unit: str = "recipes") -> list[str]:
    """What is said of `total` steps of so many seconds each."""
    said: list[str] = []
    show = Lines("measuring", None, unit, said.append)
    for done in range(1, total + 1):
        clock.now += seconds
        show(done, total=total)
    return said


def test_what_takes_less_than_a_minute_says_nothing(clock: Clock) -> None:
    assert run(clock, 59, 1.0) == []


def test_a_line_a_minute_with_what_is_left(clock: Clock) -> None:
    said = run(clock, 10, 60.0)
    assert len(said) == 10
    assert said[3] == "measuring: 4 of 10 (40%), 4 min gone, about 6 min left"


def test_a_day_and_a_half_is_no_flood_and_never_silent_for_ten_minutes(clock: Clock) -> None:
    said: list[float] = []
    show = Lines("measuring", None, "recipes", lambda words: said.append(clock.now))
    for done in range(1, 976):
        clock.now += 140.0
        show(done, total=975)
    assert 100 < len(said) < 300
    assert max(after - before for before, after in pairwise(said)) <= 600
    assert said[0] <= 1000 + 600


def test_bytes_that_were_there_before_are_no_progress_of_this_run(clock: Clock) -> None:
    said: list[str] = []
    show = Lines("converting", None, "bytes", said.append)
    half, whole = 1 << 30, 1 << 31
    show(half, total=whole, start=half)
    clock.now += 60
    show(half + half // 4, total=whole, start=half, label="converting layer 3")
    clock.now += 60
    show(half + half // 2, total=whole, start=half, label="converting layer 3")
    assert said[0].startswith("converting layer 3: 1.2 GiB of 2.0 GiB (62%), ")
    assert said[-1] == "converting layer 3: 1.5 GiB of 2.0 GiB (75%), 2 min gone, about 2 min left"


def test_a_phase_that_begins_anew_is_told_of(clock: Clock) -> None:
    said: list[str] = []
    show = Lines("profiling", None, "steps", said.append)
    for label in ("running the text", "factorising"):
        for done in range(1, 4):
            clock.now += 61
            show(done, total=3, label=label)
    assert [words.split(":")[0] for words in said] == ["running the text"] * 3 + ["factorising"] * 3


def test_nothing_is_said_of_an_amount_that_is_not_known(clock: Clock) -> None:
    said: list[str] = []
    show = Lines("measuring", None, "recipes", said.append)
    clock.now += 500
    show(7)
    assert said == ["measuring: 7 done, 8 min gone"]


def test_durations() -> None:
    assert [duration(one) for one in (31, 3600, 5400, 133_200)] == [
        "1 min",
        "60 min",
        "1 h 30 min",
        "37 h 0 min",
    ]


def test_without_a_terminal_it_is_lines_on_stderr(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert not sys.stderr.isatty()
    with output.progress("verifying", 100) as show:
        clock.now += 61
        show(50)
    out = capsys.readouterr()
    assert (out.out, out.err) == (
        "",
        "m2cache: verifying: 50 B of 100 B (50%), 1 min gone, about 1 min left\n",
    )
