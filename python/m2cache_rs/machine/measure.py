"""Measures a directory's disk, the memory and the kernels, within a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from m2cache_rs._core import DiskProbe, MemoryProbe, isa
from m2cache_rs.config import LEVELS, format_size
from m2cache_rs.errors import BudgetError, StoreIOError
from m2cache_rs.machine.device import device_of, devices_key, roots
from m2cache_rs.machine.device_rates import ENOUGH, DeviceRates, KernelRates, Rate
from m2cache_rs.machine.machine import is_virtual, last_cache_bytes
from m2cache_rs.machine.memory import free_memory
from m2cache_rs.machine.places import MANIFEST

# 576 KiB is a chunk of 256 records of 4096 weights at 4 bits: the read that decoding does most.
SIZES = (64 << 10, 256 << 10, 576 << 10, 1 << 20)
# What streaming has in flight, a little, and one after the other.
DEPTHS = (64, 8, 1)
# Written where there is less to read.
_SCRATCH = ENOUGH
_SCRATCH_IN_MEMORY = 64 << 20
_LEAST_SCRATCH = 4 << 20
# More than the largest caches of common machines, less than a small container has.
_MEMORY = (64 << 20, 192 << 20)
_LEAST_MEMORY = 8 << 20
_FILES = 64
# Shares of the time: for writing, and for what is timed; the rest is for reads that are slow to end.
_WRITING, _TIMED = 0.2, 0.5


@dataclass
class Measured:
    """What there was time for. Rates are GB a second."""

    read: list[Rate] = field(default_factory=list)
    memory_gbps: float | None = None
    memory_one_gbps: float | None = None
    dot_gbps: dict[int, float] = field(default_factory=dict)
    accumulate_gbps: dict[int, float] = field(default_factory=dict)
    threads: int | None = None
    io: str | None = None
    # Alignment that O_DIRECT needs, (memory, offsets); zeros where it is refused.
    alignment: tuple[int, int] | None = None
    # What was read: store, files or scratch; and in words.
    source: str = "nothing"
    read_what: str = "nothing"
    read_bytes: int = 0
    # What could not be measured, a sentence each; what the reader could not have.
    notes: list[str] = field(default_factory=list)
    reader_notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def device_rates(self, directory: Path) -> DeviceRates | None:
        """As kept for the planner; None if a part of it is missing."""
        try:
            kernels = {bits: KernelRates(self.dot_gbps[bits], self.accumulate_gbps[bits]) for bits in LEVELS}
            return DeviceRates(
                device=devices_key(directory),
                made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                memory_gbps=self.memory_gbps or 0.0,
                read=tuple(self.read),
                kernels=kernels,
                isa=isa()[1],
                threads=self.threads or 0,
                io=self.io or "",
                source=self.source,
                read_bytes=self.read_bytes,
            )
        except (KeyError, ValueError):
            return None


def quick(directory: Path) -> DeviceRates | None:
    """Rough rates in one to two seconds, for a planner without any; None if nothing can be read there.

    A busy machine may need more: the kernels come behind the disk.
    """
    found = measure(directory, seconds=2.0, depths=DEPTHS[:1])
    rates = found.device_rates(directory)
    if rates is None and found.read:
        rates = measure(directory, seconds=8.0, depths=DEPTHS[:1]).device_rates(directory)
    return rates


Step = tuple[str, Callable[[], None]]


def measure(
    directory: Path,
    seconds: float = 15.0,
    write: bool = True,
    depths: Sequence[int] = DEPTHS,
    progress: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Measures an existing directory's disk and this machine, for `seconds` and what is in flight then.

    A store, or a directory with as many bytes in files and stores as would be written, is measured by reading
    these; elsewhere a nameless file is written first, where that is possible and unless `write` is False.
    `progress` is told the steps done, of `steps(depths)`.
    """
    run = _Run(directory, seconds, write, depths)
    begin = time.monotonic()
    try:
        for done, (name, step) in enumerate(run.steps()):
            progress(done)
            if done and time.monotonic() - begin >= seconds:
                run.found.notes.append(f"the time ran out before {name}, and what follows it, was measured")
                break
            step()
    finally:
        run.close()
    run.found.seconds = time.monotonic() - begin
    return run.found


def steps(depths: Sequence[int] = DEPTHS) -> int:
    """How many steps a measurement has."""
    return len(SIZES) * len(depths) + 2 * len(LEVELS) + 4


class _Run:
    """One measurement: probes are made by its first steps and used by the others."""

    def __init__(self, directory: Path, seconds: float, write: bool, depths: Sequence[int]) -> None:
        self.directory, self.seconds, self.write, self.depths = directory, seconds, write, depths
        self.end = time.monotonic() + seconds
        self.found = Measured()
        self.disk: DiskProbe | None = None
        self.memory: MemoryProbe | None = None
        # A read gets two parts of the time, anything else one.
        self.part = _TIMED * seconds / (2 * len(SIZES) * len(depths) + 2 * len(LEVELS) + 2)

    def steps(self) -> Iterator[Step]:
        """In the order of what a planner misses most."""
        deepest, *others = self.depths
        yield "the disk", self.open_disk
        yield from (self.reading(size, deepest) for size in SIZES)
        yield "memory", self.open_memory
        yield "memory bandwidth", lambda: self.bandwidth(all_threads=True)
        yield from (self.kernel(name, bits) for bits in LEVELS for name in ("dot", "accumulate"))
        yield from (self.reading(size, depth) for depth in others for size in SIZES)
        yield "the memory bandwidth of one thread", lambda: self.bandwidth(all_threads=False)

    def close(self) -> None:
        """Gives the memory and the file back."""
        self.disk = self.memory = None

    def open_disk(self) -> None:
        """What is read: files that are there if they are enough or a store's, else a new one if possible."""
        paths = _readable(self.directory)
        enough = is_store(self.directory) or sum(path.stat().st_size for path in paths) >= _SCRATCH
        self.disk = None if enough else self.scratch()
        self.disk = self.disk or self.files(paths)
        if self.disk is not None:
            self.found.io, self.found.alignment = self.disk.io, self.disk.alignment
            self.found.reader_notes = self.disk.notes
            self.found.read_bytes = self.disk.bytes

    def scratch(self) -> DiskProbe | None:
        """A file to read, if one may and can be written."""
        if not self.write:
            return None
        room = _room(self.directory)
        if room < _LEAST_SCRATCH:
            self.found.notes.append(f"{self.directory} has no room for a file to measure with")
            return None
        try:
            disk = DiskProbe.scratch(self.directory, room, self.seconds * _WRITING)
        except StoreIOError as error:
            self.found.notes.append(f"no file to measure with could be written: {error}")
            return None
        self.found.source = "scratch"
        self.found.read_what = f"a new file of {format_size(disk.bytes)}, gone again"
        if is_virtual():
            self.found.notes.append(
                "what was just written may still lie in memory of the host of this virtual machine, and read "
                "two to three times as fast as an older store: measure a store for what it will get"
            )
        return disk

    def files(self, paths: list[Path]) -> DiskProbe | None:
        """Files that are there."""
        if not paths:
            self.found.notes.append(
                f"{self.directory} has no files of {format_size(SIZES[0])} or more to read"
            )
            return None
        disk = DiskProbe.files(paths)
        self.found.source = "store" if is_store(self.directory) else "files"
        self.found.read_what = f"{format_size(disk.bytes)} in {len(paths)} files that are there"
        if disk.bytes < _SCRATCH:
            self.found.notes.append(
                "so few bytes to read may lie in a cache of the disk after the first time"
            )
        return disk

    def reading(self, size: int, depth: int) -> Step:
        """One cell of the table; no deeper than the engine reads blocks of that size."""
        depth = min(depth, DiskProbe.depth(size))
        name = f"reading {format_size(size)}, {depth} at a time"

        def step() -> None:
            if self.disk is None:
                return
            if self.outlasts(size * depth):
                self.found.notes.append(f"{name}, would take too long on so slow a disk")
                return
            rate = self.disk.rate(size, depth, 2 * self.part)
            if rate is None:
                self.found.notes.append(f"{name}, was not measured: no file there is as large")
            else:
                self.found.read.append(Rate(size, depth, rate))

        return name, step

    def outlasts(self, in_flight: int) -> bool:
        """Whether so many bytes, once asked for, would outlast the time at the best rate so far."""
        fastest = max((rate.gbps for rate in self.found.read), default=0.0)
        return bool(fastest) and in_flight / fastest / 1e9 > self.end - time.monotonic()

    def open_memory(self) -> None:
        """Random weights, in as much memory as is harmless."""
        least, most = _MEMORY
        wanted = min(max(4 * last_cache_bytes(), least), most, free_memory() // 4)
        if wanted < _LEAST_MEMORY:
            self.found.notes.append("too little memory is free to measure it")
            return
        try:
            self.memory = MemoryProbe(wanted)
        except BudgetError as error:
            self.found.notes.append(f"memory could not be measured: {error}")
            return
        self.found.threads = self.memory.threads
        if wanted < 2 * last_cache_bytes():
            self.found.notes.append(
                f"measured in {format_size(wanted)}, memory and kernels are partly as fast as the caches"
            )

    def bandwidth(self, all_threads: bool) -> None:
        """Reading memory."""
        if self.memory is None:
            return
        rate = self.memory.bandwidth(all_threads, self.part)
        if all_threads:
            self.found.memory_gbps = rate
        else:
            self.found.memory_one_gbps = rate

    def kernel(self, name: str, bits: int) -> Step:
        """Computing with weights."""
        rates = self.found.dot_gbps if name == "dot" else self.found.accumulate_gbps

        def step() -> None:
            if self.memory is not None:
                rates[bits] = self.memory.kernel(name, bits, self.part)

        return f"the {name} kernel at {bits} bits", step


def is_store(directory: Path) -> bool:
    """Whether a directory is a store: then its files are read and nothing is written."""
    return (directory / MANIFEST).is_file()


def _room(directory: Path) -> int:
    """Bytes that may be written for a while: a quarter of what is free, and little of what is memory."""
    space = os.statvfs(directory)
    room = min(_SCRATCH, space.f_bavail * space.f_frsize // 4)
    return min(room, _SCRATCH_IN_MEMORY, free_memory() // 8) if device_of(directory).in_memory else room


def _readable(directory: Path) -> list[Path]:
    """The largest files of a store, all its roots alike; of another directory and of the stores in it."""
    places = roots(directory) if is_store(directory) else [directory, *sorted(directory.glob("*.m2c"))]
    share = max(1, _FILES // len(places)) if is_store(directory) else _FILES
    found = [path for place in places for _, path in sorted(_files(place), reverse=True)[:share]]
    return found[:_FILES]


def _files(directory: Path) -> Iterator[tuple[int, Path]]:
    """(size, path) of regular files that hold what they claim: not sparse ones, none that /proc makes up."""
    try:
        for entry in os.scandir(directory):
            if entry.is_file(follow_symlinks=False) and os.access(entry, os.R_OK):
                status = entry.stat(follow_symlinks=False)
                if status.st_size >= SIZES[0] and 512 * status.st_blocks > status.st_size // 2:
                    yield status.st_size, Path(entry.path)
    except OSError:  # it cannot be listed, or a file has just gone: what was found is what there is
        return
