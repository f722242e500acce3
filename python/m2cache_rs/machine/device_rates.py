"""What a machine and one of its disks can do, as measured, kept for the planner.

One JSON file per disk and machine, under `$XDG_CACHE_HOME/m2cache-rs/devices/` (`~/.cache` where that is not
set). A rate is GB (1e9 bytes) a second; of kernels, of stored weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from m2cache_rs._core import isa
from m2cache_rs.config import format_size
from m2cache_rs.machine.device import devices_key
from m2cache_rs.machine.machine import cpu_model, usable_cores

VERSION = 1
ENOUGH = 512 << 20
"""Bytes to read above which a disk's own caches no longer flatter it."""


@dataclass(frozen=True)
class Rate:
    """Reads of one size, so many in flight."""

    bytes: int
    depth: int
    gbps: float


@dataclass(frozen=True)
class KernelRates:
    """Dots (q, k, v, gate, up, head) and accumulations (o, down) at one level, one token, all threads."""

    dot_gbps: float
    accumulate_gbps: float


@dataclass(frozen=True)
class DeviceRates:
    """The rates of one disk, and of the memory and cores beside it."""

    device: str
    made: str
    memory_gbps: float
    read: tuple[Rate, ...]
    kernels: Mapping[int, KernelRates]
    isa: str
    threads: int
    io: str
    # What was read: store, files, or scratch: a new file, which may still lie in a cache of the disk.
    source: str = "unknown"
    # Bytes that there were to read; 0 where an older file does not tell.
    read_bytes: int = 0

    def __post_init__(self) -> None:
        numbers = [self.memory_gbps, self.threads]
        numbers += [number for rate in self.read for number in (rate.bytes, rate.depth, rate.gbps)]
        numbers += [rate for pair in self.kernels.values() for rate in (pair.dot_gbps, pair.accumulate_gbps)]
        if not self.read or set(self.kernels) != {4, 8, 16}:
            raise ValueError("lacks rates")
        if not all(0 < number < math.inf for number in numbers):
            raise ValueError("has a rate that is not above 0")

    def read_gbps(self, size: int, depth: int | None = None) -> float:
        """GB a second of reads of `size` bytes, at the measured depth nearest to `depth` (None: the deepest).

        Between measured sizes the time of a read grows evenly; a smaller read takes as long as the smallest
        measured one, a larger one has its rate.
        """
        wanted = max(rate.depth for rate in self.read) if depth is None else depth
        points = []
        for bytes_ in sorted({rate.bytes for rate in self.read}):
            measured = [rate for rate in self.read if rate.bytes == bytes_]
            nearest = min(measured, key=lambda one: (abs(one.depth - wanted), one.depth))
            points.append((bytes_, bytes_ / nearest.gbps))
        return size / _time(points, size)

    @property
    def request_bytes(self) -> int:
        """What a read costs beside its bytes, in bytes that come in that time.

        Of reads of the least measured size, as many as the reader has in flight; smaller ones cost a little
        more (benches/NOTES.md).
        """
        sizes = {rate.bytes for rate in self.read}
        best = max(self.read_gbps(size) for size in sizes)
        return int(min(sizes) * (best / self.read_gbps(min(sizes)) - 1))

    def to_dict(self) -> dict[str, Any]:
        """The file's content."""
        kernels = {str(level): asdict(rates) for level, rates in self.kernels.items()}
        return {
            "version": VERSION,
            **asdict(self),
            "read": [asdict(one) for one in self.read],
            "kernels": kernels,
        }

    @classmethod
    def from_dict(cls, value: Any) -> DeviceRates:
        """From a file's content; ValueError says what is wrong with it."""
        if not isinstance(value, dict) or value.get("version") != VERSION:
            raise ValueError(f"is not of version {VERSION}")
        try:
            read = tuple(
                Rate(int(one["bytes"]), int(one["depth"]), float(one["gbps"])) for one in value["read"]
            )
            kernels = {
                int(level): KernelRates(float(rates["dot_gbps"]), float(rates["accumulate_gbps"]))
                for level, rates in value["kernels"].items()
            }
            return cls(
                device=str(value["device"]),
                made=str(value["made"]),
                memory_gbps=float(value["memory_gbps"]),
                read=read,
                kernels=kernels,
                isa=str(value["isa"]),
                threads=int(value["threads"]),
                io=str(value["io"]),
                source=str(value.get("source", "unknown")),
                read_bytes=int(value.get("read_bytes", 0)),
            )
        except KeyError as error:
            raise ValueError(f"lacks {error}") from error
        except (TypeError, AttributeError, OverflowError, ValueError) as error:
            raise ValueError(f"has a value of the wrong kind ({error})") from error


def _time(points: list[tuple[int, float]], size: int) -> float:
    """Of a read of `size` bytes, from (bytes, time) of measured ones."""
    if size <= points[0][0]:
        return points[0][1]
    for (small, fast), (large, slow) in pairwise(points):
        if size <= large:
            return fast + (slow - fast) * (size - small) / (large - small)
    return points[-1][1] * size / points[-1][0]


def rates_path(directory: Path) -> Path:
    """The file that holds the rates of a directory's disk on this machine."""
    device = devices_key(directory)
    machine = f"{cpu_model()}, {usable_cores()} cores"
    digest = hashlib.sha256(f"{device}\n{machine}".encode(errors="surrogateescape")).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-")[:60]
    return _folder() / f"{name}-{digest}.json"


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The specification has relative paths ignored.
        cache = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError("there is no home directory to keep rates in; set XDG_CACHE_HOME") from error
    return cache / "m2cache-rs/devices"


def load(directory: Path) -> tuple[DeviceRates | None, str]:
    """The rates of a directory's disk, or None; and why there are none, in words for the user."""
    remedy = f"`m2cache doctor {directory}` measures it"
    try:
        path = rates_path(directory)
    except OSError as error:
        return None, f"no rates of the disk of {directory} ({error})"
    try:
        rates = DeviceRates.from_dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None, f"the disk of {directory} has not been measured; {remedy}"
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        return None, f"the file {path} is ignored: it {_reason(error)}; {remedy}"
    wrong = _other(rates, directory)
    return (None, f"the file {path} is ignored: it is of {wrong}; {remedy}") if wrong else (rates, "")


def _other(rates: DeviceRates, directory: Path) -> str:
    """What makes rates another's, empty if they are ours."""
    if rates.device != devices_key(directory):
        return "another device"
    used = isa()[1]
    return "" if rates.isa == used else f"kernels for {rates.isa}, and those in use are for {used}"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})"
    return "is no JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)


def weaker(rates: DeviceRates, kept: DeviceRates) -> str:
    """What makes rates tell less of a disk than those that are kept of it; empty where nothing does.

    Few bytes tell of a cache in the disk, not of the disk, and so may a file that was just written.
    """
    alike = 0 < kept.read_bytes <= 2 * rates.read_bytes
    if rates.read_bytes < ENOUGH and not alike:
        return f"{format_size(rates.read_bytes)} are too few to tell of the whole disk"
    if rates.source == "scratch" and kept.source in ("store", "files") and kept.read_bytes >= ENOUGH:
        return "a new file may still lie in a cache of the disk"
    if _reads(rates) < _reads(kept):
        return f"there was time for {len(_reads(rates))} of its {len(_reads(kept))} kinds of reads"
    return ""


def _reads(rates: DeviceRates) -> set[tuple[int, int]]:
    return {(rate.bytes, rate.depth) for rate in rates.read}


def save(rates: DeviceRates, directory: Path) -> Path:
    """Writes the rates of a directory's disk in one step; where. OSError where that cannot be."""
    path = rates_path(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(rates.to_dict(), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path
