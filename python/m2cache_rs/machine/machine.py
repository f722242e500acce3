"""What Linux tells about this machine and this process: cores, memory, limits, GPU. Nothing here measures."""

from __future__ import annotations

import math
import os
import platform
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2cache_rs.machine.cgroups import groups

_ROOT = Path("/")
_CAP_IPC_LOCK = 14
_WITHOUT_LIMIT = 1 << 60
# Sets that kernels exist for, or will; in the order of their age.
_SETS = (
    *("avx2", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("amx_int8", "amx_bf16"),
)


def cpu_model(root: Path = _ROOT) -> str:
    """The processor's name, or its architecture where /proc/cpuinfo has no name (Arm)."""
    return _cpuinfo("model name", root) or platform.machine()


def cpu_sets(root: Path = _ROOT) -> list[str]:
    """The vector instruction sets of the processor that matter here."""
    flags = _cpuinfo("flags", root).split()
    return [name for name in _SETS if name in flags]


def is_virtual(root: Path = _ROOT) -> bool:
    """Whether this is a virtual machine, as far as the processor tells."""
    return "hypervisor" in _cpuinfo("flags", root).split()


def _cpuinfo(name: str, root: Path) -> str:
    for line in (root / "proc/cpuinfo").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return " ".join(value.split())
    return ""


def cores(root: Path = _ROOT) -> dict[str, Any]:
    """Cores of the machine, those this process may run on, and the cores' worth of time cgroups leave it."""
    quotas = [quota for version, group in groups("cpu", root) if (quota := _quota(group, version))]
    return {
        "machine": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)),
        "quota": min(quotas, default=None),
    }


def usable_cores() -> int:
    """Cores that threads are started for: the least of affinity and quota."""
    allowed, quota = len(os.sched_getaffinity(0)), cores()["quota"]
    return max(1, min(allowed, math.floor(quota or allowed)))


def _quota(group: Path, version: int) -> float | None:
    try:
        if version == 2:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):  # the top has no such files, and a container may hide the groups above it
        return None


def last_cache_bytes(root: Path = _ROOT) -> int:
    """Size of the largest cache of a core; 32 MiB where /sys does not tell."""
    found = [_size(path) for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(found, default=0) or 32 << 20


def _size(path: Path) -> int:
    text = _text(path)
    power = {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0)
    digits = text[:-1] if power else text
    return int(digits) << power if digits.isdigit() else 0


def memory_limits(root: Path = _ROOT) -> list[dict[str, Any]]:
    """Every cgroup above us with a memory limit: its directory and the limit in bytes."""
    found = []
    for version, group in groups("memory", root):
        text = _text(group / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        # Version 1 writes "no limit" as the largest number of pages.
        if text.isdigit() and int(text) < _WITHOUT_LIMIT:
            found.append({"cgroup": str(group), "bytes": int(text)})
    return found


def meminfo(root: Path = _ROOT) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}


def huge_pages(root: Path = _ROOT) -> str:
    """Mode of transparent huge pages: always, madvise, never, or unknown."""
    modes = _text(root / "sys/kernel/mm/transparent_hugepage/enabled").split()
    return next((mode.strip("[]") for mode in modes if mode.startswith("[")), "unknown")


def memlock() -> int | None:
    """Bytes this process may lock in memory; None without a limit, as for those with CAP_IPC_LOCK."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    capable = int(_status("CapEff") or "0", 16) >> _CAP_IPC_LOCK & 1
    return None if limit == resource.RLIM_INFINITY or capable else limit


def seccomp() -> bool:
    """Whether system calls of this process are filtered, as containers do."""
    return _status("Seccomp") not in ("", "0")


def uring_sysctl(root: Path = _ROOT) -> int | None:
    """kernel.io_uring_disabled: 0 allowed, 1 for the privileged, 2 for nobody; None on kernels without it."""
    text = _text(root / "proc/sys/kernel/io_uring_disabled")
    return int(text) if text.isdigit() else None


def _status(name: str) -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def gpus(root: Path = _ROOT) -> list[str]:
    """NVIDIA GPUs as the driver names them, without loading anything; empty without a driver."""
    return list(_asked()) or [
        _model(path) for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    ]


def _asked() -> Iterator[str]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return
    yield from filter(None, (" ".join(line.split()) for line in done.stdout.splitlines()))


def _model(information: Path) -> str:
    fields = (line.partition(":") for line in _text(information, lines=True).splitlines())
    return next((value.strip() for name, _, value in fields if name == "Model"), "unknown NVIDIA GPU")


def _text(path: Path, lines: bool = False) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return text if lines else text.strip()
