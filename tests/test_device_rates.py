"""The rates of a disk: kept, read back, refused when they are not what they should be, and used."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs._core import isa
from m2cache_rs.machine import device_rates as module
from m2cache_rs.machine.device import device_of
from m2cache_rs.machine.device_rates import (
    ENOUGH,
    DeviceRates,
    KernelRates,
    Rate,
    load,
    rates_path,
    save,
    weaker,
)

RATES = (Rate(65536, 1, 0.1), Rate(65536, 32, 1.0), Rate(262144, 32, 2.0), Rate(1048576, 32, 4.0))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose rates go into a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def made(directory: Path) -> DeviceRates:
    return DeviceRates(
        device=device_of(directory).key,
        made="2026-11-22T10:00:00+00:00",
        memory_gbps=10.0,
        read=RATES,
        kernels={bits: KernelRates(1.5, 0.5) for bits in (4, 8, 16)},
        isa=isa()[1],
        threads=2,
        io="uring",
        source="store",
        read_bytes=1 << 32,
    )


def test_what_is_saved_is_loaded(disk: Path) -> None:
    assert load(disk) == (
        None,
        f"the disk of {disk} has not been measured; `m2cache doctor {disk}` measures it",
    )
    path = save(made(disk), disk)
    assert load(disk) == (made(disk), "")
    assert path == rates_path(disk)
    assert path.is_relative_to(disk / "cache/m2cache-rs/devices")
    below = disk / "a"
    below.mkdir()
    assert load(below)[0] == made(disk), "one file serves every directory of a disk"
    save(replace(made(disk), memory_gbps=12.0), disk)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert load(disk)[0] == replace(made(disk), memory_gbps=12.0)


def test_what_tells_less_of_a_disk_replaces_nothing(disk: Path) -> None:
    whole = made(disk)
    small = replace(whole, read_bytes=12 << 20)
    few = "12.0 MiB are too few to tell of the whole disk"
    assert weaker(small, small) == "", "measured again"
    assert weaker(whole, small) == weaker(replace(whole, read_bytes=1 << 31), whole) == ""
    assert weaker(small, whole) == few
    assert weaker(small, replace(whole, read_bytes=0)) == few, "an older file does not tell"
    scratch = replace(whole, source="scratch", read_bytes=ENOUGH)
    for source in ("store", "files"):
        kept = replace(whole, source=source)
        assert weaker(scratch, kept) == "a new file may still lie in a cache of the disk"
        assert weaker(scratch, replace(kept, read_bytes=ENOUGH - 1)) == weaker(kept, scratch) == ""
    assert weaker(scratch, scratch) == weaker(scratch, replace(whole, source="unknown", read_bytes=0)) == ""
    hasty = replace(whole, read=RATES[:3])
    assert weaker(hasty, whole) == "there was time for 3 of its 4 kinds of reads"
    assert weaker(whole, hasty) == weaker(hasty, hasty) == ""


def test_the_file_is_what_other_programs_were_promised(disk: Path) -> None:
    content = json.loads(save(made(disk), disk).read_text())
    assert content == {
        "version": 1,
        "device": device_of(disk).key,
        "made": "2026-11-22T10:00:00+00:00",
        "memory_gbps": 10.0,
        "read": [{"bytes": one.bytes, "depth": one.depth, "gbps": one.gbps} for one in RATES],
        "kernels": {bits: {"dot_gbps": 1.5, "accumulate_gbps": 0.5} for bits in ("4", "8", "16")},
        "isa": isa()[1],
        "threads": 2,
        "io": "uring",
        "source": "store",
        "read_bytes": 1 << 32,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "is not of version 1"),
        ({"read": []}, "lacks rates"),
        ({"kernels": {}}, "lacks rates"),
        ({"kernels": {"five": {}}}, "value of the wrong kind"),
        ({"memory_gbps": float("nan")}, "has a rate that is not above 0"),
        ({"memory_gbps": -1.0}, "has a rate that is not above 0"),
        ({"memory_gbps": "much"}, "value of the wrong kind"),
        ({"threads": float("inf")}, "value of the wrong kind"),
        ({"read": [{"bytes": 4096, "depth": 1}]}, "lacks 'gbps'"),
        ({"read": [{"bytes": 0, "depth": 1, "gbps": 1.0}]}, "has a rate that is not above 0"),
        ({"read": 7}, "value of the wrong kind"),
        ({"device": "another disk"}, "is of another device"),
        ({"isa": "abacus"}, "is of kernels for abacus, and those in use are for "),
    ],
)
def test_rates_that_are_not_ours_are_ignored_with_the_reason(
    disk: Path, change: dict[str, Any], reason: str
) -> None:
    path = save(made(disk), disk)
    path.write_text(json.dumps(made(disk).to_dict() | change))
    found, why = load(disk)
    assert found is None
    assert reason in why
    assert str(path) in why
    assert "m2cache doctor" in why


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is no JSON"), (b"\xff\xfe{", "is no JSON"), (b"[]", "version"), (b"[" * 100_000, "")],
)
def test_a_torn_file_is_ignored_with_the_reason(disk: Path, content: bytes, reason: str) -> None:
    path = save(made(disk), disk)
    path.write_bytes(content)
    found, why = load(disk)
    assert (found, reason in why, str(path) in why) == (None, True, True)
    save(made(disk), disk)
    assert load(disk)[0] == made(disk)


def test_a_file_that_cannot_be_read_is_ignored_with_the_reason(disk: Path) -> None:
    path = rates_path(disk)
    path.mkdir(parents=True)
    assert "cannot be read (Is a directory)" in load(disk)[1]


def test_an_interrupted_save_leaves_the_old_rates(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(made(disk), disk)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(replace(made(disk), threads=9), disk)
    assert load(disk)[0] == made(disk)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_other_machines_and_core_counts_have_other_rates(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = rates_path(disk)
    monkeypatch.setattr(module, "usable_cores", lambda: 1000)
    assert rates_path(disk) != ours
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk / "cache"))
    monkeypatch.setattr(module, "cpu_model", lambda: "another")
    assert rates_path(disk) != ours


def test_a_relative_cache_directory_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rates_path(tmp_path).is_relative_to(tmp_path / ".cache/m2cache-rs/devices")


def test_without_a_home_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert load(tmp_path)[0] is None
    assert "set XDG_CACHE_HOME" in load(tmp_path)[1]
    with pytest.raises(OSError, match="set XDG_CACHE_HOME"):
        save(made(tmp_path), tmp_path)


def test_rates_between_the_measured_sizes() -> None:
    rates = made(Path("/"))
    for rate in RATES[1:]:
        assert rates.read_gbps(rate.bytes) == pytest.approx(rate.gbps)
    # The time of a read grows evenly: 64 KiB at 1 GB/s and 256 KiB at 2 take 65.5 and 131 microseconds.
    middle = (65536 + 262144) / 2
    assert rates.read_gbps(int(middle)) == pytest.approx(middle / (65536 / 1.0 + 262144 / 2.0) * 2)
    assert rates.read_gbps(4096) == pytest.approx(4096 / 65536)
    assert rates.read_gbps(1 << 30) == pytest.approx(4.0)
    deep = replace(rates, read=(*RATES, Rate(65536, 64, 3.0)))
    assert deep.read_gbps(65536) == pytest.approx(3.0)
    assert deep.read_gbps(1048576) == pytest.approx(4.0), "the deepest of each size"
    assert rates.read_gbps(65536, depth=2) == pytest.approx(0.1)
    assert rates.read_gbps(65536, depth=100) == pytest.approx(1.0)


def test_what_a_request_costs_follows_from_the_rates() -> None:
    """64 KiB at 1 GB/s take as long as 256 KiB do at the best rate, 4 GB/s: 192 KiB for the request."""
    assert made(Path("/")).request_bytes == 3 * 65536
    flat = replace(made(Path("/")), read=(Rate(65536, 64, 2.0), Rate(1048576, 64, 2.0)))
    assert flat.request_bytes == 0


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    assert load(tmp_path / "none")[0] is None
    assert "No such file" in load(tmp_path / "none")[1]
    assert os.listdir(tmp_path) == []
