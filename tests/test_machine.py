"""What Linux tells about machine and disk, from a made-up /proc and /sys, and what is advised about it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs.cli.advice import advice
from m2cache_rs.machine import machine
from m2cache_rs.machine.device import device_of

GIB = 1 << 30
V1 = "35 31 0:30 /docker/x /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_processor_by_name_and_sets(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {"proc/cpuinfo": "model name\t: AMD  EPYC\nflags\t\t: fpu avx2 avx512f avx512_vnni hypervisor\n"},
    )
    assert machine.cpu_model(root) == "AMD EPYC"
    assert machine.cpu_sets(root) == ["avx2", "avx512f", "avx512_vnni"]
    assert machine.is_virtual(root)
    arm = tree(tmp_path / "arm", {"proc/cpuinfo": "CPU implementer : 0x41\nFeatures : fp asimd\n"})
    assert (machine.cpu_model(arm), machine.cpu_sets(arm)) == (os.uname().machine, [])
    assert not machine.is_virtual(arm)


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "quota"),
    [
        ("0::/a/b\n", V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a\n", V2, {"a/cpu.max": "max 100000\n"}, None),
        (
            "2:cpu:/docker/x\n",
            V1,
            {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        (
            "2:cpu:/docker/x\n",
            V1,
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("0::/hidden\n", V2, {}, None),
    ],
)
def test_the_least_quota_of_all_cgroups(
    tmp_path: Path, cgroup: str, mounts: str, files: dict[str, str], quota: float | None
) -> None:
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    root = tree(tmp_path, {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files})
    assert machine.cores(root)["quota"] == quota


def test_threads_are_as_many_as_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for quota, usable in ((None, 8), (2.5, 2), (0.3, 1), (100.0, 8)):
        monkeypatch.setattr(machine, "cores", lambda quota=quota: {"quota": quota})
        assert machine.usable_cores() == usable


def test_every_memory_limit_is_listed(tmp_path: Path) -> None:
    files = {"a/b/memory.max": "max\n", "a/memory.max": f"{4 * GIB}\n", "memory.max": f"{8 * GIB}\n"}
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    root = tree(tmp_path, {"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": V2, **files})
    group = root / "sys/fs/cgroup"
    assert machine.memory_limits(root) == [
        {"cgroup": str(group / "a"), "bytes": 4 * GIB},
        {"cgroup": str(group), "bytes": 8 * GIB},
    ]
    unlimited = V1.replace("cpu", "memory")
    files = {"proc/self/cgroup": "4:memory:/docker/x\n", "proc/self/mountinfo": unlimited}
    files["sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n"
    assert machine.memory_limits(tree(tmp_path / "v1", files)) == []


def test_small_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = {
        f"sys/devices/system/cpu/cpu0/cache/index{i}/size": text
        for i, text in enumerate(("48K", "2M\n", "?"))
    }
    root = tree(
        tmp_path,
        {
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            "proc/sys/kernel/io_uring_disabled": "2\n",
            "proc/driver/nvidia/gpus/0000/information": "Model: \t\t NVIDIA M40\nIRQ: 3\n",
            **caches,
        },
    )
    assert (machine.huge_pages(root), machine.uring_sysctl(root)) == ("madvise", 2)
    assert machine.last_cache_bytes(root) == 2 << 20
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    assert (machine.gpus(root), machine.gpus(tmp_path / "empty")) == (["NVIDIA M40"], [])
    empty = tmp_path / "empty"
    assert (machine.huge_pages(empty), machine.uring_sysctl(empty)) == ("unknown", None)
    assert machine.last_cache_bytes(empty) == 32 << 20


def disk(root: Path, number: str, name: str, **files: str) -> None:
    """A block device of the made-up /sys, behind a link as in the true one."""
    tree(root / "sys/devices" / name, {path.replace("__", "/"): text for path, text in files.items()})
    (root / "sys/dev/block").mkdir(parents=True, exist_ok=True)
    (root / "sys/dev/block" / number).symlink_to(root / "sys/devices" / name)


def of(root: Path, directory: Path, kind: str, source: str) -> Any:
    point = str(directory.resolve()).replace(" ", r"\040")
    mounts = f"1 0 0:1 / / rw - ext4 /dev/root rw\n2 1 0:2 / {point} rw - {kind} {source} rw\n"
    tree(root, {"proc/self/mountinfo": mounts})
    return device_of(directory, root)


def number_of(path: Path) -> str:
    status = path.stat()
    return f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"


def test_a_partition_has_its_size_and_the_model_of_its_disk(tmp_path: Path) -> None:
    root, directory = tmp_path / "root", tmp_path / "with space"
    directory.mkdir()
    disk(
        root,
        "900:0",
        "nvme0n1",
        size="4000\n",
        device__model="Fast  SSD\n",
        device__serial="S1\n",
        wwid="S1\n",
    )
    disk(root, number_of(directory), "nvme0n1/nvme0n1p2", size="2000\n", partition="2\n")
    found = of(root, directory, "xfs", "/dev/nvme0n1p2")
    assert (found.name, found.model, found.bytes) == ("nvme0n1p2", "Fast SSD S1", 512 * 2000)
    assert (found.filesystem, found.mount) == ("xfs", str(directory.resolve()))
    assert found.key == "nvme0n1p2, Fast SSD S1, 1024000 bytes"


def test_a_file_system_without_a_disk_is_known_by_kind_and_place(tmp_path: Path) -> None:
    for kind, memory, network in (("tmpfs", True, False), ("overlay", False, False), ("nfs4", False, True)):
        found = of(tmp_path / kind, tmp_path, kind, "none")
        assert found.key == f"{kind} at {tmp_path.resolve()}"
        assert (found.in_memory, found.network, found.bytes) == (memory, network, None)


def test_a_file_system_with_numbers_of_its_own_is_found_by_its_source(tmp_path: Path) -> None:
    """btrfs gives its files a device number that no disk has."""
    source = Path("/dev/null")
    status = source.stat()
    root = tmp_path / "root"
    disk(root, f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}", "sdb", size="8\n")
    assert of(root, tmp_path, "btrfs", "/dev/null").key == "sdb, 4096 bytes"


def report(**changes: Any) -> dict[str, Any]:
    """Of a machine that lacks nothing, but for some `section__name=value`."""
    good: dict[str, Any] = {
        "cpu": {"isa": "avx512", "isa_refused": None, "cores": {"machine": 8, "usable": 8}},
        "memory": {"limits": [], "total_bytes": 32 * GIB, "huge_pages": "madvise", "memlock_bytes": None},
        "io": {
            "uring_refused": None,
            "uring_switched_off": False,
            "uring_sysctl": 0,
            "seccomp": False,
            "direct_alignment": [512, 512],
        },
        "device": {"filesystem": "ext4", "mount": "/", "in_memory": False, "network": False},
        "disk_free_bytes": 10**12,
        "measured": {"kernels": {"4": {"dot_gbps": 20.0}}, "memory_gbps": 20.0, "read": [{"gbps": 3.0}]},
    }
    for path, value in changes.items():
        *sections, name = path.split("__")
        place = good
        for section in sections:
            place = place[section]
        place[name] = value
    return good


def test_a_machine_that_lacks_nothing_gets_no_advice() -> None:
    assert advice(report()) == []


@pytest.mark.parametrize(
    ("changes", "what", "how"),
    [
        ({"cpu__cores": {"machine": 8, "usable": 2}}, "2 of 8 cores usable", "--cpus"),
        (
            {"measured__kernels": {"4": {"dot_gbps": 2.0}}},
            "computing is slower than memory",
            "More than 8 cores",
        ),
        ({"cpu__isa_refused": ("no leave", "ask the kernel")}, "AMX is there", "ask the kernel"),
        ({"memory__limits": [{"cgroup": "/g", "bytes": GIB}]}, "allows 1.0 GiB of 32.0 GiB", "limit of /g"),
        ({"memory__huge_pages": "never"}, "no transparent huge pages", "transparent_hugepage/enabled"),
        ({"memory__memlock_bytes": 8 << 20}, "only 8.0 MiB may be locked", "ulimit -l unlimited"),
        ({"io__uring_refused": "x", "io__uring_sysctl": 2}, "no io_uring", "kernel.io_uring_disabled=0"),
        ({"io__uring_refused": "x", "io__seccomp": True}, "no io_uring", "seccomp profile"),
        ({"io__uring_refused": "x", "io__uring_switched_off": True}, "no io_uring", "Unset M2CACHE_IO_URING"),
        ({"io__uring_refused": "x"}, "no io_uring", "Linux 5.6"),
        ({"io__direct_alignment": [0, 0]}, "no O_DIRECT", "ext4, xfs or btrfs"),
        ({"device__in_memory": True}, "/ is memory", "on a disk"),
        ({"device__network": True}, "ext4 is a network file system", "local SSD"),
        ({"measured__read": [{"gbps": 0.1}]}, "0.10 GB/s at best", "NVMe"),
        ({"disk_free_bytes": 10**9}, "953.7 MiB of disk free", "--planes base"),
    ],
)
def test_everything_missing_has_its_line(changes: dict[str, Any], what: str, how: str) -> None:
    (found,) = advice(report(**changes))
    assert what in found["what"]
    assert how in found["how"]
    assert found["costs"]
