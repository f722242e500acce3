"""The disk under a folder: what it reads a second, what was read of it, and an empty page cache."""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

DEPTH = 32
ALIGN = 4096
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

    Raises `OSError` where the file system has no O_DIRECT.
    """
    block = max(ALIGN, block // ALIGN * ALIGN)
    handles = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in files]
    try:
        places = [(handle, os.fstat(handle).st_size // block) for handle in handles]
        places = [(handle, blocks) for handle, blocks in places if blocks]
        with ThreadPoolExecutor(DEPTH) as pool:
            return Rate(block, tuple(_second(pool, places, block, second) for second in range(seconds)))
    finally:
        for handle in handles:
            os.close(handle)


def _second(pool: ThreadPoolExecutor, places: Sequence[tuple[int, int]], block: int, seed: int) -> float:
    begun = time.perf_counter()
    seeds = range(seed * DEPTH, (seed + 1) * DEPTH)
    total = sum(pool.map(lambda one: _reader(places, block, one, begun + 1), seeds))
    return total / (time.perf_counter() - begun)


def _reader(places: Sequence[tuple[int, int]], block: int, seed: int, until: float) -> int:
    """Reads until the time is over; returns the bytes."""
    choice, total = random.Random(seed), 0
    with mmap.mmap(-1, block) as buffer:  # anonymous pages are aligned as O_DIRECT wants them
        while time.perf_counter() < until:
            handle, blocks = choice.choice(places)
            total += os.preadv(handle, [buffer], choice.randrange(blocks) * block)
    return total


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
