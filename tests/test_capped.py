"""benches/capped.py and what it is made of: cgroups, watching, arithmetic, and the whole on a tiny shape."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.benches import BENCHES, LLAMA, SHAPE

MIB = 1 << 20


# ---- cgroups


@pytest.fixture
def group(limits: Any) -> Any:
    """A real cgroup of 64 MiB."""
    cgroup = limits("capped.cgroup")
    try:
        with cgroup.limited(64 * MIB) as made:
            yield made
    except cgroup.NoCgroupError as error:
        pytest.skip(str(error))
    assert not made.path.exists()


def test_a_program_in_a_group_is_killed_above_its_limit_and_not_below(limits: Any, group: Any) -> None:
    run = limits("capped.watch").run
    fill = "import sys; x = bytearray(int(sys.argv[1])); x[::4096] = b'1' * len(x[::4096])"
    small = run(group.command([sys.executable, "-c", fill, str(16 * MIB)]))
    assert (small.code, small.killed, group.kills()) == (0, False, 0)
    large = run(group.command([sys.executable, "-c", fill, str(256 * MIB)]))
    assert large.killed
    assert group.kills() >= 1
    assert group.peak() is None or group.peak() <= 64 * MIB


def test_version_2_is_limited_by_its_own_files(limits: Any, tmp_path: Path) -> None:
    cgroup = limits("capped.cgroup")
    (tmp_path / "user.slice/app").mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    mkdir = Path.mkdir

    def kernel(path: Path, *arguments: Any, **options: Any) -> None:
        """Makes the files that the kernel would."""
        mkdir(path, *arguments, **options)
        for name in ("memory.max", "memory.swap.max", "cgroup.procs"):
            (path / name).touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", kernel)
        patch.setattr(Path, "rmdir", lambda path: path.rename(tmp_path / "removed"))
        with cgroup.limited(5 * MIB, tmp_path, "0::/user.slice/app\n") as made:
            assert made.path.parent == tmp_path
            assert made.command(["true"])[-2:] == [str(made.path / "cgroup.procs"), "true"]
    assert (tmp_path / "removed/memory.max").read_text() == str(5 * MIB)
    assert (tmp_path / "removed/memory.swap.max").read_text() == "0"


def test_the_kills_of_version_2_are_counted(limits: Any, tmp_path: Path) -> None:
    cgroup = limits("capped.cgroup")
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n")
    (tmp_path / "memory.peak").write_text("123\n")
    made = cgroup.Cgroup(tmp_path, cgroup.V2)
    assert (made.kills(), made.peak()) == (1, 123)


def test_places_are_the_top_then_ours(limits: Any, tmp_path: Path) -> None:
    cgroup = limits("capped.cgroup")
    (tmp_path / "memory/docker/1").mkdir(parents=True)
    found = list(cgroup.places(tmp_path, "3:cpu:/x\n2:memory:/docker/1\n"))
    assert found == [(tmp_path / "memory", cgroup.V1), (tmp_path / "memory/docker/1", cgroup.V1)]


def test_a_user_gets_a_group_beside_their_own(limits: Any, tmp_path: Path) -> None:
    cgroup = limits("capped.cgroup")
    (tmp_path / "user.slice/app/shell").mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("memory")
    found = [base for base, _ in cgroup.places(tmp_path, "0::/user.slice/app/shell\n")]
    assert found == [tmp_path, tmp_path / "user.slice/app", tmp_path / "user.slice"]


@pytest.mark.parametrize("own", ["", "0::/\n", "2:memory:/\n"])
def test_without_a_controller_the_way_out_is_named(limits: Any, tmp_path: Path, own: str) -> None:
    cgroup = limits("capped.cgroup")
    with (
        pytest.raises(cgroup.NoCgroupError, match=r"memory controller.*systemd-run"),
        cgroup.limited(MIB, tmp_path, own),
    ):
        pass


# ---- watching and the disk


def test_a_program_is_watched_to_its_end(
    limits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays until it was looked at."""
    watch, looked = limits("capped.watch"), tmp_path / "looked"
    look = watch._look

    def tell(pid: int, seen: Any) -> None:
        look(pid, seen)
        if seen.anonymous > 64 * MIB:
            looked.touch()

    monkeypatch.setattr(watch, "_look", tell)
    code = "import os, sys, time; x = bytearray(b'1') * (64 << 20); end = time.monotonic() + 60\n"
    code += "while not os.path.exists(sys.argv[1]) and time.monotonic() < end: time.sleep(0.01)\n"
    code += "print('out'); raise SystemExit(3)"
    seen = watch.run([sys.executable, "-c", code, str(looked)])
    assert (seen.code, seen.stdout, seen.killed) == (3, "out\n", False)
    assert 64 * MIB < seen.anonymous <= seen.peak < 256 * MIB
    assert watch.run(["/bin/sh", "-c", "kill -9 $$"]).killed


def test_reads_of_a_cold_file_are_counted(limits: Any, tmp_path: Path) -> None:
    disk, path = limits("capped.disk"), tmp_path / "data"
    path.write_bytes(os.urandom(32 * MIB))
    disk.forget([path])
    seen = limits("capped.watch").run(["cat", str(path)])
    if seen.read == 0:
        pytest.skip(f"reads of {tmp_path} are not counted: no disk below it, or it cannot be forgotten")
    assert seen.read >= 32 * MIB
    before = disk.read_so_far(disk.device(path))
    assert before is None or before >= 32 * MIB


def test_the_rate_is_what_is_left_behind_a_burst(limits: Any, tmp_path: Path) -> None:
    disk, path = limits("capped.disk"), tmp_path / "data"
    path.write_bytes(bytes(8 * MIB))
    try:
        rate = disk.measure([path], 70000, 1)
    except OSError as error:
        pytest.skip(f"no O_DIRECT under {tmp_path}: {error}")
    assert rate.block == 69632
    assert len(rate.by_second) == 1
    assert rate.sustained > 0
    assert disk.Rate(1, (9.0, 9.0, 9.0, 9.0, 1.0, 2.0)).sustained == 1.5


# ---- arithmetic


def test_the_bound_takes_the_slower_of_disk_and_arithmetic(limits: Any) -> None:
    bound = limits("capped.bound").Bound
    slow_disk = bound(touched=3000, hold=1000, rate=1000.0, compute=0.5)
    assert (slow_disk.needed, slow_disk.io, slow_disk.tokens_per_second) == (2000, 2.0, 0.5)
    assert slow_disk.limit == "the disk"
    fits = bound(touched=3000, hold=4000, rate=1000.0, compute=0.5)
    assert (fits.needed, fits.tokens_per_second, fits.limit) == (0, 2.0, "the arithmetic")


def test_the_first_sweep_reads_everything(limits: Any) -> None:
    sweeps = limits("capped.bound").Sweeps(prompt=512, new=9, chunk=256)
    read = 1000 + 9 * 300
    assert sweeps.chunks == 2
    assert sweeps.later(read, 1000) == 300
    assert sweeps.first_token(read, 1000) == 1300
    alone = limits("capped.bound").Sweeps(prompt=16, new=1, chunk=256)
    assert (alone.later(1000, 1000), alone.first_token(1000, 1000)) == (0, 1000)


@pytest.mark.parametrize(("name", "published"), [("llama-2-7b", 3.8258e9), ("llama-3-8b", 4.6612e9)])
def test_gguf_sizes_are_those_of_published_files(limits: Any, name: str, published: float) -> None:
    """Of the files that llama-quantize made; they hold the vocabulary besides."""
    size = limits("peer.gguf_shape").size(import_module("shape").Shape.of(name).architecture)
    assert published - 12e6 < size < published


def run(program: str, rate: float, **more: Any) -> dict[str, Any]:
    base = {
        "killed": False,
        "peak": 100,
        "anonymous": 50,
        "rate": 400.0,
        "tokens_per_second": rate,
        "first_token_seconds": 2.0,
    }
    ours = {"weights_read": 1000 + 64 * 400}
    return base | (ours if program == "ours" else {}) | more


def measured(limits: Any, **more: Any) -> Any:
    values = {
        "name": "tiny", "cap": 700, "gguf": 1000, "touched": 1000, "hold": 600,
        "sweeps": limits("capped.bound").Sweeps(16, 65, 256),
        "ours": [run("ours", 0.8), run("ours", 0.9), run("ours", 0.7)],
        "resident": [run("", 4.0)], "llama": [run("", 0.2, decode_read=6400)], "llama_resident": [],
        "plan": {"expected": {"tokens_per_second": 0.88}},
        "plan_at_rate": {"expected": {"tokens_per_second": 0.9}},
    }  # fmt: skip
    return limits("capped.summary").Measured(**(values | more))


def test_the_summary_compares_with_bound_peer_and_plan(limits: Any) -> None:
    found = measured(limits).summary()
    assert (found["ours"], found["bound"], found["needed"], found["limit"]) == (0.8, 1.0, 400, "the disk")
    assert found["ours_to_bound"] == pytest.approx(0.8)
    assert found["ours_to_llama"] == pytest.approx(4.0)
    assert found["plan_to_ours"] == pytest.approx(1.1)
    assert found["first_token_ratio"] == pytest.approx(2.0 / 2.5)
    text = "\n".join(measured(limits).lines())
    assert "synthetic weights" in text
    assert "0.800 (0.700..0.900)" in text


def test_kills_and_missing_runs_are_shown_and_not_invented(limits: Any) -> None:
    dead = {"killed": True, "peak": 1, "anonymous": 1, "rate": 400.0}
    found = measured(limits, llama=[dead, dead], resident=[{"killed": False, "error": "too large"}])
    assert found.summary()["ours_to_llama"] is None
    assert found.summary()["compute_seconds"] == 0
    text = "\n".join(found.lines())
    assert "2/2" in text
    assert "arithmetic unknown" in text
    assert json.loads(json.dumps(measured(limits, ours=[dead]).summary(), allow_nan=False))["killed"] == 1


# ---- the journal


def test_the_journal_goes_on_in_the_same_session_alone(limits: Any, tmp_path: Path) -> None:
    journal = limits("journal").Journal
    path = tmp_path / "journal"
    assert journal(path, "one").step("a", lambda: {"x": 1}) == {"x": 1}
    with path.open("a") as file:
        file.write('{"key": "b", "val')
    again = journal(path, "one")
    assert again.step("a", lambda: pytest.fail("it was run before")) == {"x": 1}
    assert again.step("b", lambda: 2) == 2
    assert journal(path, "one").step("b", lambda: pytest.fail("it was run before")) == 2
    assert journal(path, "other").step("a", lambda: 3) == 3


# ---- the whole


def capped(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "tiny").mkdir(exist_ok=True)
    shape = tmp_path / "tiny/config.json"
    shape.write_text(json.dumps(SHAPE))
    command = [sys.executable, BENCHES / "capped.py", "--shape", shape, "--work", tmp_path / "work"]
    command += [
        "--out",
        tmp_path / "out.json",
        "--repeats",
        "1",
        "--new-tokens",
        "4",
        "--settle",
        "1",
        *options,
    ]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=300
    )


def test_a_tiny_comparison_from_end_to_end(group: Any, tmp_path: Path) -> None:
    python = os.environ.get(LLAMA)
    peer = ["--llama-python", python] if python else ["--no-peer"]
    done = capped(tmp_path, "--cap", "300MiB", *peer)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["label"] == "synthetic weights"
    (one,) = result["measured"]
    assert one["summary"]["killed"] == 0
    assert one["summary"]["peak"] <= 300 * MIB
    assert one["summary"]["ours"] > 0
    assert one["summary"]["compute_seconds"] > 0
    assert not (tmp_path / "work/capped.journal").exists()
    again = capped(tmp_path, "--cap", "300MiB", "--no-peer")
    assert (again.returncode, "making" in again.stderr) == (0, False), again.stderr
    made = {path.name for path in (tmp_path / "work").iterdir()}
    assert made == {"tiny-base.m2c"} | ({"tiny-Q4_0.gguf"} if python else set())
    if python is None:
        pytest.skip(f"ours was compared with nothing: {LLAMA} names no Python that has llama_cpp and gguf")
    assert one["llama"][0]["tokens"] == 4
    assert math.isfinite(one["summary"]["ours_to_llama"])


def test_help_is_shown(tmp_path: Path) -> None:
    assert "60% and 30%" in " ".join(capped(tmp_path, "--help").stdout.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cap", "none%", "--no-peer"], "no share"),
        (["--cap", "lots", "--no-peer"], "--cap"),
        (["--llama-python", "/nonexistent"], "/nonexistent"),
    ],
)
def test_mistakes_are_told_in_one_line(group: Any, tmp_path: Path, options: list[str], message: str) -> None:
    done = capped(tmp_path, *options)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
