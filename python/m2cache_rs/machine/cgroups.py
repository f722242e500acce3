"""The cgroups above this process, v1 and v2: each of them can limit memory and CPU time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def groups(controller: str, root: Path = _ROOT) -> Iterator[tuple[int, Path]]:
    """(version, directory) of every cgroup above us that can limit `controller`, from our own up to the top.

    `root` is where /proc and /sys lie (tests give another). A directory may lack the controller's files.
    """
    mounts = list(_mounts(controller, root))
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        version = 2 if not controllers else 1
        if version == 2 or controller in controllers.split(","):
            for found, base, mount in mounts:
                if found == version:
                    yield from ((version, one) for one in _climb(_below(group, base), mount))


def _mounts(controller: str, root: Path) -> Iterator[tuple[int, str, Path]]:
    """(version, the cgroup that is mounted, where) of every mount that can hold the limit (proc(5))."""
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        base, where = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2" or (kind == "cgroup" and controller in options.split(",")):
            yield 2 if kind == "cgroup2" else 1, base, root / where.lstrip("/")


def _below(group: str, base: str) -> str:
    """`group` as seen from a mount of `base`; a container shows a part of the tree, its top is ours."""
    if group == base or not group.startswith(base.rstrip("/") + "/"):
        return ""
    return group[len(base.rstrip("/")) :].strip("/")


def _climb(group: str, mount: Path) -> Iterator[Path]:
    here = mount / group
    while here != mount:
        yield here
        here = here.parent
    yield mount
