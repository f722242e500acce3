"""`m2cache doctor`: measures what it can, says what it cannot, leaves nothing behind; no speed is judged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from m2cache_rs.cli.program import main
from m2cache_rs.convert import convert
from m2cache_rs.machine import device_rates
from m2cache_rs.machine import measure as module
from m2cache_rs.machine.device import roots
from m2cache_rs.machine.device_rates import load, rates_path
from m2cache_rs.machine.measure import DEPTHS, SIZES, measure, quick, steps

from tests.held import let_go, started, wait_until
from tests.stores import EXAMPLE, Cli

Doctor = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rates go into a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """What is measured."""
    path = tmp_path / "disk"
    path.mkdir()
    return path


@pytest.fixture
def doctor(cli: Cli) -> Doctor:
    """Runs `m2cache doctor --json` and returns the object."""

    def run(*arguments: object) -> dict[str, Any]:
        done = cli("doctor", *map(str, arguments), "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    return run


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """The same in this process, with short steps and more time than any machine needs for them."""
    monkeypatch.setattr(module, "_TIMED", 0.02)
    monkeypatch.setattr(module, "_SCRATCH", 32 << 20)

    def run(*arguments: object) -> dict[str, Any]:
        assert main(["doctor", *map(str, arguments), "--seconds", "60", "--json"]) == 0
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    return run


def test_everything_about_a_directory(patient: Doctor, directory: Path) -> None:
    report = patient(directory)
    assert list(directory.iterdir()) == []
    measured = report["measured"]
    engine = {64 << 10: 64, 256 << 10: 64, 576 << 10: 56, 1 << 20: 32}
    depths = {(size, depth) for size in SIZES for depth in (engine[size], 8, 1)}
    assert {(one["bytes"], one["depth"]) for one in measured["read"]} == depths
    assert all(one["gbps"] > 0 for one in measured["read"])
    assert measured["memory_gbps"] > 0
    assert measured["memory_one_thread_gbps"] > 0
    assert [rate > 0 for pair in measured["kernels"].values() for rate in pair.values()] == [True] * 6
    assert (measured["source"], list(measured["kernels"])) == ("scratch", ["4", "8", "16"])
    rates, why = load(directory)
    assert (report["rates_file"], report["rates_problem"], why) == (str(rates_path(directory)), None, "")
    assert rates is not None
    assert [vars(one) for one in rates.read] == measured["read"]
    assert (rates.io, rates.isa) == (report["io"]["engine"], report["cpu"]["isa"])
    assert report["cpu"]["cores"]["usable"] == measured["threads"] == rates.threads


def test_the_parts_of_the_report(doctor: Doctor, directory: Path) -> None:
    report = doctor(directory, "--seconds", 1)
    assert set(report) == {
        *(
            "directory",
            "cpu",
            "memory",
            "device",
            "devices",
            "disk_free_bytes",
            "io",
            "gpus",
            "software",
            "measured",
        ),
        *("rates_file", "rates_problem", "rates_replaced", "advice", "peak_rss_bytes"),
    }
    assert report["peak_rss_bytes"] < 400 << 20
    assert report["software"].keys() >= {"python", "linux", "numpy"}
    assert all(set(one) == {"what", "costs", "how"} for one in report["advice"])


def test_when_the_time_is_up_it_ends_with_what_it_has(doctor: Doctor, directory: Path) -> None:
    report = doctor(directory, "--seconds", 1e-9)
    assert any("the time ran out before" in note for note in report["measured"]["notes"])
    assert (report["measured"]["read"], report["measured"]["memory_gbps"]) == ([], None)
    assert (report["rates_file"], report["rates_problem"]) == (None, "not all of it was measured")
    assert load(directory)[0] is None


def test_no_step_begins_after_its_time(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    told: list[int] = []
    found = measure(directory, seconds=4.5, write=False, progress=told.append)
    assert told == [0, 1, 2, 3, 4, 5]
    assert found.notes[-1] == "the time ran out before memory, and what follows it, was measured"


def test_little_free_memory_is_respected_and_said(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMED", 0.01)
    monkeypatch.setattr(module, "last_cache_bytes", lambda: 32 << 20)
    for free, rates, note in (
        (100 << 20, 7, "partly as fast as the caches"),
        (20 << 20, 0, "too little memory is free"),
    ):
        monkeypatch.setattr(module, "free_memory", lambda free=free: free)
        found = measure(directory, seconds=60, write=False)
        measured = [found.memory_gbps, *found.dot_gbps.values(), *found.accumulate_gbps.values()]
        assert len([rate for rate in measured if rate]) == rates
        assert any(note in one for one in found.notes)


def test_a_slow_disk_is_not_asked_for_more_than_there_is_time_for(directory: Path) -> None:
    class Slow:
        io, alignment, bytes = "psync", None, 1 << 30
        notes: tuple[str, ...] = ()
        asked: list[tuple[int, int]] = []  # noqa: RUF012  one test, one instance

        def rate(self, size: int, depth: int, seconds: float) -> float:
            self.asked.append((size, depth))
            return 1e-6

    run = module._Run(directory, 2.0, False, DEPTHS)
    run.disk = Slow()  # type: ignore[assignment]
    for size in SIZES:
        run.reading(size, 32)[1]()
    assert Slow.asked == [(SIZES[0], 32)]
    assert len([note for note in run.found.notes if "too long on so slow a disk" in note]) == len(SIZES) - 1


def test_a_step_s_name_stands_within_a_sentence(directory: Path) -> None:
    names = [name for name, _ in module._Run(directory, 1, False, DEPTHS).steps()]
    assert "reading 64.0 KiB, 64 at a time" in names
    assert not any(name.endswith(",") for name in names)


def test_as_many_steps_as_announced(directory: Path) -> None:
    for depths in (DEPTHS, DEPTHS[:1]):
        assert len(list(module._Run(directory, 1, True, depths).steps())) == steps(depths)


def test_a_store_is_measured_by_its_own_files(doctor: Doctor, tale: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [tale, *tale.rglob("*")]}
    report = doctor(tale, "--seconds", 1)
    assert {path: path.stat().st_mtime_ns for path in [tale, *tale.rglob("*")]} == before
    assert report["measured"]["source"] == "store"
    assert any("cache of the disk" in note for note in report["measured"]["notes"]), "it is small"


def test_a_striped_store_is_read_from_all_its_disks(tmp_path: Path, doctor: Doctor) -> None:
    """One of them is memory here, since a test has no second disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        convert(EXAMPLE, tmp_path / "x.m2c", stripe=[other])
        assert {path.parent for path in module._readable(tmp_path / "x.m2c")} == set(
            roots(tmp_path / "x.m2c")
        )
        report = doctor(tmp_path / "x.m2c", "--seconds", 1)
        assert len(roots(tmp_path / "x.m2c")) == 2
    assert report["devices"] == f"{report['device']['key']} + tmpfs at /dev/shm"
    assert load(tmp_path)[0] is None, "those are of two disks together"


def test_files_that_are_enough_are_read_instead_of_a_new_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SCRATCH", 1 << 20)
    monkeypatch.setattr(module, "_TIMED", 0.02)
    (directory / "model.m2c").mkdir()
    for name in ("a", "model.m2c/b"):
        (directory / name).write_bytes(os.urandom(600 << 10))
    (directory / "sparse").touch()
    os.truncate(directory / "sparse", 1 << 30)
    (directory / "link").symlink_to(directory / "a")
    found = measure(directory, seconds=60)
    assert (found.source, found.read_what) == ("files", "1.2 MiB in 2 files that are there")
    assert {rate.bytes for rate in found.read} <= {65536, 262144, 589824}
    assert any("no file there is as large" in note for note in found.notes)


def test_nothing_is_written_where_that_is_not_wanted(patient: Doctor, directory: Path, cache: Path) -> None:
    report = patient(directory, "--no-write")
    assert (report["measured"]["read"], report["measured"]["source"]) == ([], "nothing")
    assert report["rates_file"] is None
    assert "has no files of 64.0 KiB or more" in report["measured"]["notes"][0]
    assert not cache.exists()
    (directory / "file").write_bytes(os.urandom(1 << 20))
    report = patient(directory, "--no-write")
    assert (len(report["measured"]["read"]) > 0, report["measured"]["source"]) == (True, "files")


def test_where_nobody_can_write(doctor: Doctor) -> None:
    report = doctor("/sys/kernel", "--seconds", 0.5)
    assert (report["measured"]["read"], report["rates_file"]) == ([], None)
    assert "/sys/kernel has no room for a file" in report["measured"]["notes"][0]
    assert (report["device"]["filesystem"], report["device"]["key"]) == ("sysfs", "sysfs at /sys")


def test_memory_is_not_taken_for_a_disk(doctor: Doctor) -> None:
    report = doctor("/dev/shm", "--seconds", 2)
    assert report["device"]["in_memory"]
    assert any("a store here takes memory" in one["costs"] for one in report["advice"])
    assert list(Path("/dev/shm").glob(".m2cache*")) == []


def mounted(directory: Path, options: str, prepare: str) -> dict[str, Any]:
    """The report on a tmpfs of its own, mounted where only that process sees it."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no test mount a file system (unshare -Urm)")
    short = "import sys, m2cache_rs.machine.measure as module; module._TIMED = 0.02; "
    short += "from m2cache_rs.cli.program import main; sys.exit(main(sys.argv[1:]))"
    run = '"$2" -c "$3" doctor "$1" --json --seconds 60'
    script = f'mount -t tmpfs -o {options} none "$1" && cd "$1" && {prepare} {run}'
    command = ["unshare", "-Urm", "sh", "-ec", script, "sh", directory, sys.executable, short]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_full_file_system(directory: Path) -> None:
    full = mounted(directory, "size=2m", "(cat /dev/zero >full || true) 2>/dev/null;")
    assert "has no room for a file to measure with" in full["measured"]["notes"][0]
    assert (full["measured"]["source"], full["disk_free_bytes"]) == ("files", 0)


def test_a_file_system_that_is_read_only(directory: Path) -> None:
    prepare = 'head -c 1000000 /dev/urandom >file; mount -o remount,ro "$1";'
    report = mounted(directory, "size=100m", prepare)
    assert "no file to measure with could be written" in report["measured"]["notes"][0]
    assert "Read-only file system" in report["measured"]["notes"][0]
    assert (report["measured"]["source"], len(report["measured"]["read"]) > 0) == ("files", True)


def test_a_small_store_does_not_replace_what_was_measured_at_length(patient: Doctor, tale: Path) -> None:
    """One disk, one file: 13 MB in a cache of the disk said how fast all of it was."""
    first = patient(tale)
    assert first["rates_file"] == str(rates_path(tale))
    kept = json.loads(rates_path(tale).read_text())
    assert 12 << 20 < kept["read_bytes"] < 14 << 20
    rates_path(tale).write_text(json.dumps(kept | {"read_bytes": 1 << 32, "made": "once"}))
    again = patient(tale)
    assert again["rates_file"] is None
    assert again["rates_problem"].startswith(f"{rates_path(tale)} stays, measured from 4.0 GiB at once:")
    assert json.loads(rates_path(tale).read_text())["made"] == "once"


def test_an_empty_directory_does_not_replace_what_a_store_of_its_disk_read(
    patient: Doctor, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_rates, "ENOUGH", 16 << 20)
    first, again = patient(directory), patient(directory)
    path = rates_path(directory)
    kept = json.loads(path.read_text())
    assert (first["rates_replaced"], first["rates_file"]) == (None, str(path))
    assert again["rates_replaced"] is not None
    path.write_text(json.dumps(kept | {"source": "store", "read_bytes": 13 << 30, "made": "once"}))
    found = patient(directory)
    assert found["measured"]["source"] == "scratch"
    told = f"{path} stays, measured from 13.0 GiB at once: a new file may still lie in a cache of the disk"
    assert found["rates_problem"].startswith(told)
    assert json.loads(path.read_text())["made"] == "once"


def test_without_io_uring(patient: Doctor, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2CACHE_IO_URING", "off")
    report = patient(directory)
    assert (report["io"]["engine"], report["io"]["uring_refused"]) == ("psync", "M2CACHE_IO_URING=off")
    assert ("no io_uring", "Unset M2CACHE_IO_URING") in [
        (one["what"], one["how"]) for one in report["advice"]
    ]
    assert len(report["measured"]["read"]) > 0


def test_where_no_rates_can_be_kept(
    patient: Doctor, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    report = patient(directory)
    assert report["rates_file"] is None
    assert "Not a directory: '/dev/null/cache" in report["rates_problem"]


def open_files(process: int) -> Iterator[str]:
    for handle in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            yield os.readlink(handle)


def test_an_interrupt_leaves_nothing(directory: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "m2cache_rs", "doctor", directory, "--seconds", "120"]
    with started(command, stdout=subprocess.PIPE) as process:
        wait_until(process, lambda: any(str(directory) in path for path in open_files(process.pid)))
        process.send_signal(signal.SIGINT)
        out, err = let_go(process)
    assert (process.returncode, out, err) == (130, "", "m2cache: interrupted\n")
    assert list(directory.iterdir()) == []
    assert not cache.exists()


def test_quick_rates_for_a_planner(tale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMED", 0.1)
    rates = quick(tale)
    assert rates is not None
    assert [rate.depth for rate in rates.read] == [64, 64, 56, 32], "as the engine reads"
    assert rates.read_gbps(576 << 10) > 0
    assert load(tale)[0] is None, "it is too rough to be kept"


def test_a_busy_machine_is_given_more_time(tale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels come behind the disk, and two seconds may be over by then."""
    monkeypatch.setattr(module, "_TIMED", 0.1)
    real, given = module.measure, []

    def measure(directory: Path, seconds: float, **options: Any) -> Any:
        given.append(seconds)
        found = real(directory, seconds, **options)
        if len(given) == 1:
            found.dot_gbps.clear()
        return found

    monkeypatch.setattr(module, "measure", measure)
    assert quick(tale) is not None
    assert given == [2.0, 8.0]


def test_the_text_says_the_same(cli: Cli, directory: Path) -> None:
    hostile = directory / "a\x1b[31m"
    hostile.mkdir()
    done = cli("doctor", hostile, "--seconds", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for part in (
        "kernels use",
        "cgroup limits",
        "io_uring",
        "O_DIRECT",
        "read, GB/s",
        "32 to 64 at a time",
        "accumulations",
    ):
        assert part in done.stdout
    assert "what would help" in done.stdout
    assert "peak memory of this process" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/nowhere/at/all",), "/nowhere/at/all does not exist; give a directory on the disk to measure"),
        ((__file__,), "is a file; give the directory it lies in"),
        ((".", "--seconds", "0"), "seconds is 0.0; it must be above 0"),
        ((".", "--seconds", "nan"), "seconds is nan; it must be above 0"),
        ((".", "--seconds", "1e9"), "at most 3600"),
    ],
)
def test_bad_use_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(["doctor", *arguments]))
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert message in shown.err


def test_a_directory_nobody_may_enter(doctor: Doctor, directory: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may enter every directory")
    directory.chmod(0)
    report = doctor(directory, "--seconds", 0.5)
    directory.chmod(0o700)
    assert "no file to measure with could be written" in report["measured"]["notes"][0]


def test_a_broken_driver_tool_is_no_gpu(
    doctor: Doctor, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = directory / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'cannot talk to the driver'; exit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    known = shutil.which("nvidia-smi")
    assert known == str(tool)
    assert "cannot talk" not in str(doctor(directory, "--seconds", 0.1)["gpus"])
    tool.write_text("#!/bin/sh\necho 'NVIDIA  X, 80 GiB, 1.2'\n")
    assert doctor(directory, "--seconds", 0.1)["gpus"] == ["NVIDIA X, 80 GiB, 1.2"]
