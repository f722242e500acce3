"""What a directory lies on: a disk, or a file system that has none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from m2cache_rs._core import Store
from m2cache_rs.errors import M2CacheError
from m2cache_rs.machine.places import MANIFEST

_ROOT = Path("/")
# File systems whose files are memory: reading them measures no disk.
_IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs", "devtmpfs")
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "fuse.sshfs", "lustre", "beegfs")


@dataclass(frozen=True)
class Device:
    """Where a directory's bytes are; equal for directories on the same disk (or partition)."""

    name: str
    model: str | None
    bytes: int | None
    filesystem: str
    mount: str

    @property
    def key(self) -> str:
        """A name that stays the same as long as the device does."""
        if self.bytes is None:
            return f"{self.filesystem} at {self.mount}"
        return ", ".join(filter(None, [self.name, self.model, f"{self.bytes} bytes"]))

    @property
    def in_memory(self) -> bool:
        """Whether files there are memory."""
        return self.filesystem in _IN_MEMORY

    @property
    def network(self) -> bool:
        """Whether files there are read from another machine."""
        return self.filesystem in _NETWORK


def device_of(directory: Path, root: Path = _ROOT) -> Device:
    """The device of an existing directory; `root` is where /proc and /sys lie (tests give another)."""
    filesystem, mount, source = _mount(directory.resolve(), root)
    block = _block(os.stat(directory).st_dev, root) or _block(_number(source), root)
    if block is None:
        return Device(filesystem, None, None, filesystem, mount)
    disk = block.parent if (block / "partition").exists() else block
    sectors = int((block / "size").read_text())
    return Device(block.name, _model(disk), 512 * sectors, filesystem, mount)


def roots(directory: Path) -> list[Path]:
    """The directories whose files are read together: those of a striped store, else the directory itself."""
    if not (directory / MANIFEST).is_file():
        return [directory]
    try:
        return [Path(root) for root in Store(str(directory)).roots()]
    except M2CacheError:  # what is broken in a store is for other commands to say
        return [directory]


def devices_key(directory: Path) -> str:
    """One name for the devices under a directory; several where it is a store striped over them."""
    return " + ".join(dict.fromkeys(device_of(root).key for root in roots(directory)))


def _mount(directory: Path, root: Path) -> tuple[str, str, str]:
    """(file system type, mount point, source) of the mount that a directory lies in (proc(5))."""
    best = ("unknown", "/", "none")
    for line in (root / "proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point = Path(_unescape(before.split()[4]))
        # Later lines lie over earlier ones.
        if directory.is_relative_to(point) and len(point.parts) >= len(Path(best[1]).parts):
            kind, source = after.split()[:2]
            best = (kind, str(point), _unescape(source))
    return best


def _unescape(text: str) -> str:
    for code, meant in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, meant)
    return text


def _number(source: str) -> int:
    """Device number of a mount's source: file systems such as btrfs give their files numbers of no disk."""
    try:
        return os.stat(source).st_rdev if source.startswith("/dev/") else 0
    except OSError:
        return 0


def _block(number: int, root: Path) -> Path | None:
    path = root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    return path.resolve() if number and (path / "size").exists() else None


def _model(disk: Path) -> str | None:
    """Model and serial number, as far as the driver tells."""
    words = [_text(disk / name) for name in ("device/model", "device/serial", "wwid")]
    return " ".join(dict.fromkeys(word for word in words if word)) or None


def _text(path: Path) -> str:
    try:
        return " ".join(path.read_text(errors="replace").split())
    except OSError:
        return ""
