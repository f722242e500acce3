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

DEPTHS = (2, 4, 8, 16)
ALIGN = 4096
SECTOR = 512


@dataclass(frozen=True)
class Rate:
    """Bytes a second of O_DIRECT reads of `block` bytes at random places, at the best depth."""

    bytes_per_second: float
    block: int
    depth: int


def measure(files: Sequence[Path], block: int, seconds: float = 1.0) -> Rate:
    """Reads blocks of `files` past the page cache for `seconds` at each of DEPTHS; the best of them.

    Raises `OSError` where the file system has no O_DIRECT.
    """
    block = max(ALIGN, block // ALIGN * ALIGN)
    found = (_at_depth(files, block, depth, seconds) for depth in DEPTHS)
    return max(found, key=lambda rate: rate.bytes_per_second)


def _at_depth(files: Sequence[Path], block: int, depth: int, seconds: float) -> Rate:
    handles = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in files]
    begun = time.perf_counter()
    try:
        places = [(h, os.fstat(h).st_size // block) for h in handles]
        places = [(h, blocks) for h, blocks in places if blocks]
        with ThreadPoolExecutor(depth) as pool:
            done = pool.map(lambda seed: _reader(places, block, seed, begun + seconds), range(depth))
            total = sum(done)
    finally:
        for handle in handles:
            os.close(handle)
    return Rate(total / (time.perf_counter() - begun), block, depth)


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
