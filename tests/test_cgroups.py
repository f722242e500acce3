"""Which directories can limit this process, by version 2 and by both; /proc and /sys are made up."""

from __future__ import annotations

from pathlib import Path

import pytest
from m2cache_rs.machine.cgroups import groups
from m2cache_rs.machine.machine import cores, memory_limits
from m2cache_rs.machine.memory import free_memory

UNIFIED = "/ /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
MIB = 1 << 20


def tree(root: Path, own: str, *mounts: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    lines = [f"{30 + i} 23 0:28 {mount}\n" for i, mount in enumerate(mounts)]
    (root / "proc/self/mountinfo").write_text("22 1 0:2 / /proc rw - proc proc rw\n" + "".join(lines))
    (root / "proc/meminfo").write_text(f"MemAvailable: {1 << 20} kB\n")
    return root


@pytest.mark.parametrize(
    ("own", "mounts", "found"),
    [
        ("0::/user.slice/a.scope\n", [UNIFIED], ["2 user.slice/a.scope", "2 user.slice", "2 ."]),
        ("0::/\n", [UNIFIED], ["2 ."]),
        # A container that sees its own part of the tree, with and without a group of its own below it.
        ("0::/docker/x\n", [UNIFIED.replace("/ ", "/docker/x ", 1)], ["2 ."]),
        ("0::/docker/x/y\n", [UNIFIED.replace("/ ", "/docker/x ", 1)], ["2 y", "2 ."]),
        # A group whose name only begins like the mounted one.
        ("0::/docker/xy\n", [UNIFIED.replace("/ ", "/docker/x ", 1)], ["2 ."]),
        # Version 1 for memory, version 2 for the rest: both may limit.
        (
            "4:memory:/a\n1:name=systemd:/a\n0::/a\n",
            [
                "/ /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
                UNIFIED.replace("p rw", "p/u rw"),
            ],
            ["1 memory/a", "1 memory", "2 u/a", "2 u"],
        ),
        # The controller of another hierarchy is none of ours.
        ("3:cpu:/a\n", ["/ /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"], []),
        ("", [], []),
    ],
)
def test_the_groups_above_us(tmp_path: Path, own: str, mounts: list[str], found: list[str]) -> None:
    root = tree(tmp_path, own, *mounts)
    top = root / "sys/fs/cgroup"
    assert [f"{version} {path.relative_to(top)}" for version, path in groups("memory", root)] == found


def test_limits_of_every_version_2_group_count(tmp_path: Path) -> None:
    """A scope without a limit inside a slice with one, inside a top that has no such files."""
    root = tree(tmp_path, "0::/slice/scope\n", UNIFIED)
    slice_ = root / "sys/fs/cgroup/slice"
    (slice_ / "scope").mkdir(parents=True)
    for group, limit, used, cpu in (
        (slice_, f"{512 * MIB}", 100 * MIB, "150000 100000"),
        (slice_ / "scope", "max", 90 * MIB, "max 100000"),
    ):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {4 * MIB}\n")
        (group / "cpu.max").write_text(f"{cpu}\n")
    assert memory_limits(root) == [{"cgroup": str(slice_), "bytes": 512 * MIB}]
    assert free_memory(root) == (512 - 100 + 4) * MIB
    assert cores(root)["quota"] == 1.5


def test_a_group_outside_of_our_namespace_ends(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/../other\n", UNIFIED)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    assert memory_limits(root) == []
    assert free_memory(root) == 1 << 30
