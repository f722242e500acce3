"""How much memory this process may still take, and the most it has taken, as Linux tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from m2cache_rs.machine.cgroups import groups

_ROOT = Path("/")


def peak_rss() -> int:
    """Peak resident memory of this process in bytes (VmHWM)."""
    return _field(Path("/proc/self/status"), "VmHWM:") * 1024


def rss() -> int:
    """Resident memory of this process now, in bytes (VmRSS)."""
    return _field(Path("/proc/self/status"), "VmRSS:") * 1024


def free_memory(root: Path = _ROOT) -> int:
    """Bytes that can still be taken: the least of MemAvailable and of what every cgroup above us leaves.

    `root` is where /proc and /sys lie (tests give another). Stale as soon as it returns: others allocate too.
    """
    system = _field(root / "proc/meminfo", "MemAvailable:") * 1024
    return max(0, min([system, *_cgroups(root)]))


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    raise OSError(f"{path} has no line {name}")


def _cgroups(root: Path) -> Iterator[int]:
    """What each cgroup with a memory limit leaves, from our own up to the top, v1 and v2."""
    for version, group in groups("memory", root):
        left = _left(group, version)
        if left is not None:
            yield left


def _left(group: Path, version: int) -> int | None:
    """Limit less use of one cgroup; file pages that the kernel would drop first do not count as used."""
    names = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    try:
        limit, used = ((group / name).read_text().strip() for name in names[:2])
        stale = _field(group / "memory.stat", names[2])
    except OSError:  # the root group has no such files, and a container may hide the groups above it
        return None
    return None if limit == "max" else int(limit) - int(used) + stale
