"""The disk under a folder: what it reads a second, what was read of it, and an empty page cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2cache_rs._core import DiskProbe

DEPTH = 32
ALIGN = 4096
# Longer reads are no faster, and the probe takes none.
LARGEST = 1 << 20
SECTOR = 512


@dataclass(frozen=True)
class Rate:
    """Bytes a second of O_DIRECT reads of `block` bytes at random places, DEPTH at a time, by the second."""

    block: int
    by_second: tuple[float, ...]

    @property
    def sustained(self) -> float:
        """Behind two thirds of the time: many virtual disks allow a burst first and then hold a limit."""
        later = self.by_second[len(self.by_second) * 2 // 3 :]
        return sum(later) / len(later)


def measure(files: Sequence[Path], block: int, seconds: int) -> Rate:
    """Reads blocks of `files` past the page cache for some seconds, which also uses up what burst there is.

    The reads are those of the core: threads of Python, reading into small pages, reached 0.3 to 0.5 GB/s on a
    disk from which the decoder then got 2.3, and a bound from them would flatter us.
    """
    block = min(max(ALIGN, block // ALIGN * ALIGN), LARGEST)
    probe = DiskProbe.files([str(path) for path in files])
    return Rate(block, tuple((probe.rate(block, DEPTH, 1.0) or 0.0) * 1e9 for _ in range(seconds)))


def device(path: Path) -> str:
    """The block device of `path` as major:minor."""
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def read_so_far(name: str) -> int | None:
    """Bytes read of a device since the machine started, by anybody; None for one that is not a disk."""
    for line in Path("/proc/diskstats").read_text().splitlines():
        words = line.split()
        if f"{words[0]}:{words[1]}" == name:
            return int(words[5]) * SECTOR
    return None


def forget(files: Sequence[Path]) -> str:
    """Empties the page cache, or where that is not ours to do drops these files from it; says which."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for path in files:
            _forget_file(path)
        return "files dropped from the page cache (the rest of it is not ours to empty)"
    return "page cache emptied"


def _forget_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
