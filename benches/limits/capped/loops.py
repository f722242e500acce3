"""Emulated devices: file systems in files, each a device of its own, read by a group at a limited rate."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from limits.capped import cgroup, disk

THROTTLE = "blkio.throttle.read_bps_device"


class NoDevicesError(Exception):
    """No devices can be emulated here; the message says why."""


@contextlib.contextmanager
def mounted(work: Path, size: int) -> Iterator[Path]:
    """An ext4 of `size` bytes in a file under `work`, mounted, then removed. Raises `NoDevicesError`."""
    with tempfile.TemporaryDirectory(dir=work, prefix="emulated-") as folder:
        image, point = Path(folder, "image"), Path(folder, "mounted")
        with image.open("wb") as file:
            file.truncate(size)
        point.mkdir()
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        # The loop device goes with the mount.
        _run("mount", "-o", "loop", str(image), str(point))
        try:
            yield point
        finally:
            _run("umount", "--lazy", str(point))


@contextlib.contextmanager
def throttled(points: Sequence[Path], rate: int) -> Iterator[cgroup.Cgroup]:
    """A group that reads `rate` bytes a second from the device of each mount. Raises `NoDevicesError`."""
    base = cgroup.MOUNT / "blkio"
    path = base / f"{cgroup.NAME}-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        raise NoDevicesError(
            f"no blkio cgroup (version 1) can be made in {base}: {error.strerror}"
        ) from error
    try:
        for point in points:
            (path / THROTTLE).write_text(f"{disk.device(point)} {rate}")
        yield cgroup.Cgroup(path, cgroup.V1)
    except FileNotFoundError as error:
        raise NoDevicesError(f"this kernel cannot limit the rate of a device: {error}") from error
    finally:
        cgroup.remove(path)


def _run(*command: str) -> None:
    if os.geteuid() != 0:
        raise NoDevicesError(f"{command[0]} needs root")
    if shutil.which(command[0]) is None:
        raise NoDevicesError(f"there is no {command[0]} here")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = " ".join(done.stderr.split())
        raise NoDevicesError(f"{' '.join(command)}: {why} (most containers have no loop devices)")
