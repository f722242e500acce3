"""Free memory is the least of the machine's and of every cgroup's above us; /proc and /sys are made up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from m2cache_rs.machine.memory import free_memory

GIB = 1 << 30


def tree(root: Path, cgroup: str, mounts: list[str], files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {16 * GIB >> 10} kB\nMemAvailable: {8 * GIB >> 10} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    lines = [f"3{i} 23 0:28 {mount}" for i, mount in enumerate(mounts)]
    (root / "proc/self/mountinfo").write_text("\n".join(["22 1 0:2 / /proc rw - proc proc rw", *lines, ""]))
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(group: str, limit: str, used: int, stale: int = 0) -> dict[str, str]:
    names = {
        "memory.max": limit,
        "memory.current": str(used),
        "memory.stat": f"anon 5\ninactive_file {stale}\n",
    }
    return {f"{group}/{name}": text + "\n" for name, text in names.items()}


V2 = ["/ /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate"]


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/a/b\n", V2, {**v2("a/b", "max", GIB), **v2("a", "max", GIB)})
    assert free_memory(root) == 8 * GIB


def test_a_group_further_up_can_be_the_tightest(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "0::/a/b\n",
        V2,
        {**v2("a/b", str(6 * GIB), GIB), **v2("a", str(4 * GIB), 3 * GIB, GIB // 2)},
    )
    assert free_memory(root) == GIB + GIB // 2


def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    mount = "/docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"
    files = {
        "memory/memory.limit_in_bytes": str(2 * GIB),
        "memory/memory.usage_in_bytes": str(GIB),
        "memory/memory.stat": "total_inactive_file 4096\n",
    }
    root = tree(tmp_path, "4:cpu,memory:/docker/x\n0::/\n", [mount], files)
    assert free_memory(root) == GIB + 4096


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    assert free_memory(tree(tmp_path, "0::/a\n", V2, v2("a", str(GIB), 2 * GIB))) == 0


def test_groups_that_cannot_be_seen_are_passed_over(tmp_path: Path) -> None:
    root = tree(tmp_path, "1:name=systemd:/x\n0::/hidden/deep\n", V2, {})
    assert free_memory(root) == 8 * GIB


def test_of_this_process() -> None:
    assert free_memory() > 0
    code = "from m2cache_rs.machine.memory import peak_rss\n"
    code += "before = peak_rss(); block = bytearray(b'x') * (64 << 20); del block; print(peak_rss() - before)"
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 60 << 20 < grown < 80 << 20


@pytest.mark.parametrize("text", ["", "MemTotal: 1 kB\n"])
def test_a_proc_without_the_line_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(text)
    with pytest.raises(OSError, match="MemAvailable"):
        free_memory(tmp_path)
