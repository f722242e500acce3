"""How much memory this process may still take, and the most it has taken, as Linux tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def peak_rss() -> int:
    """Peak resident memory of this process in bytes (VmHWM)."""
    return _field(Path("/proc/self/status"), "VmHWM:") * 1024


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
    mounts = list(_mounts(root))
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        version = 2 if not controllers else 1
        if version == 2 or "memory" in controllers.split(","):
            for found, base, mount in mounts:
                if found == version:
                    yield from _climb(_below(group, base), mount, version)


def _mounts(root: Path) -> Iterator[tuple[int, str, Path]]:
    """(version, the cgroup that is mounted, where) of every mount that can hold a memory limit (proc(5))."""
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        base, where = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            yield 2 if kind == "cgroup2" else 1, base, root / where.lstrip("/")


def _below(group: str, base: str) -> str:
    """`group` as seen from a mount of `base`; a container shows a part of the tree, its top is ours."""
    if group == base or not group.startswith(base.rstrip("/") + "/"):
        return ""
    return group[len(base.rstrip("/")) :].strip("/")


def _climb(group: str, mount: Path, version: int) -> Iterator[int]:
    here = mount / group
    while True:
        left = _left(here, version)
        if left is not None:
            yield left
        if here == mount:
            return
        here = here.parent


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
