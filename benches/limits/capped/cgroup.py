"""A memory cgroup for one program: page cache counts in it, as it does in a container."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
NAME = "m2cache-bench"


class NoCgroupError(Exception):
    """No memory cgroup can be made here; the message says why and what to do."""


@dataclass(frozen=True)
class Version:
    """The names of one version's files."""

    number: int
    limit: str
    peak: str
    kills: str


V1 = Version(1, "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
V2 = Version(2, "memory.max", "memory.peak", "memory.events")


@dataclass(frozen=True)
class Cgroup:
    """A group with a limit; made by `limited`."""

    path: Path
    version: Version

    def command(self, command: list[str]) -> list[str]:
        """The command, which enters the group before it becomes the program."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"), *command]

    def peak(self) -> int | None:
        """The most that was charged to the group, page cache included; None where the kernel does not say."""
        with contextlib.suppress(OSError):
            return int((self.path / self.version.peak).read_text())
        return None

    def kills(self) -> int:
        """Processes that the kernel killed for memory."""
        words = (self.path / self.version.kills).read_text().split()
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0


@contextlib.contextmanager
def limited(limit: int, mount: Path = MOUNT, own: str | None = None) -> Iterator[Cgroup]:
    """A new group of `limit` bytes and no swap, removed at the end.

    `mount` and `own` (the text of /proc/self/cgroup) are for tests. Raises `NoCgroupError`.
    """
    text = Path("/proc/self/cgroup").read_text() if own is None else own
    group = _make(limit, mount, text)
    try:
        yield group
    finally:
        remove(group.path)


def _make(limit: int, mount: Path, own: str) -> Cgroup:
    refusals = []
    for base, version in places(mount, own):
        _sweep(base)
        try:
            return _make_in(base, version, limit)
        except OSError as error:
            refusals.append(f"{base}: {error.strerror or error}")
    found = "; ".join(refusals) or f"there is no memory controller under {mount}"
    raise NoCgroupError(
        f"no memory cgroup can be made ({found}); run this as root (in a container: a privileged one), or in "
        "a group that is yours: systemd-run --user --scope -p Delegate=yes COMMAND"
    )


def places(mount: Path, own: str) -> Iterator[tuple[Path, Version]]:
    """Where a group could be made: at the top, then as near to our own group as the rules allow."""
    for line in own.splitlines():
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            top = mount / "memory"
            found = [(top, V1), (top / group.strip("/"), V1)]
        elif not controllers and "memory" in _controllers(mount):
            # A group that holds processes can have no limited groups below it, so ours is not among them.
            here = (mount / group.strip("/")).parents
            found = [(mount, V2), *((base, V2) for base in here if base.is_relative_to(mount))]
        else:
            continue
        yield from (place for place in dict.fromkeys(found) if place[0].is_dir())


def _controllers(group: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (group / "cgroup.controllers").read_text().split()
    return []


def _make_in(base: Path, version: Version, limit: int) -> Cgroup:
    path = base / f"{NAME}-{os.getpid()}"
    path.mkdir()
    try:
        if version is V2 and not (path / V2.limit).exists():
            (base / "cgroup.subtree_control").write_text("+memory")
        (path / version.limit).write_text(str(limit))
        _forbid_swap(path, version, limit)
        if not os.access(path / "cgroup.procs", os.W_OK):
            raise PermissionError("its cgroup.procs cannot be written")
    except OSError:
        remove(path)
        raise
    return Cgroup(path, version)


def _forbid_swap(path: Path, version: Version, limit: int) -> None:
    """Both files are missing where the kernel does not account for swap; then there is nothing to forbid."""
    name, value = ("memory.memsw.limit_in_bytes", limit) if version is V1 else ("memory.swap.max", 0)
    if (path / name).exists():
        (path / name).write_text(str(value))


def _sweep(base: Path) -> None:
    """Groups that killed benchmarks left; one that still holds a process stays."""
    for path in base.glob(f"{NAME}-*"):
        if not Path("/proc", path.name.rpartition("-")[2]).exists():
            with contextlib.suppress(OSError):
                path.rmdir()


def remove(path: Path) -> None:
    """The kernel takes a moment to forget a process that has ended."""
    for _ in range(50):
        try:
            path.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return
    path.rmdir()
