"""How fast this machine is: from the rates of the disk, a quick measurement, or the user."""

from __future__ import annotations

import math
from pathlib import Path

from m2cache_rs._core import DiskProbe
from m2cache_rs.errors import UsageError
from m2cache_rs.machine.device_rates import DeviceRates, load
from m2cache_rs.machine.machine import usable_cores
from m2cache_rs.machine.measure import quick
from m2cache_rs.plan.planner import Rates


def known_rates(
    directory: Path, threads: int | None = None, io: str | None = None
) -> tuple[Rates | None, str]:
    """The rates that `m2cache doctor` measured for a directory's disk; or None, and why in words.

    `io` is what reads now (None: not known yet): where that is not what was measured, the rates say so.
    """
    device, why = load(directory)
    if device is None:
        return None, why
    other = io is not None and io != device.io
    caveat = f"measured with {device.io}, not {io}" if other else ""
    return _rates(device, threads, f"measured by `m2cache doctor` at {device.made}", caveat), ""


def rates_of(directory: Path, disk_gbps: float | None = None, threads: int | None = None) -> Rates:
    """The rates of a directory's disk and of this machine: as measured before, else measured now, in 2 s.

    `disk_gbps` replaces what the disk reads. UsageError where it is no rate, or nothing could be measured.
    """
    if disk_gbps is not None and not 0 < disk_gbps < math.inf:
        raise UsageError(f"disk-gbps is {disk_gbps}; it must be above 0 (GB a second, for example 3.5)")
    rates, why = known_rates(directory, threads, _reader())
    if rates is None:
        device = quick(directory)
        if device is None:
            raise UsageError(f"{why}; and nothing could be measured there now")
        rates = _rates(device, threads, f"measured just now, roughly ({why})")
    if disk_gbps is None:
        return rates
    given = float(disk_gbps)
    return Rates(lambda size: given, rates.memory, rates.kernels, f"reads as told, the rest {rates.source}")


def request_bytes(directory: Path) -> int | None:
    """What a read of a directory's disk costs beside its bytes, in bytes; None where it was never measured.

    It decides which gaps between wanted records are read too, which changes no result.
    """
    device, _ = load(directory)
    return None if device is None else device.request_bytes


def _reader() -> str:
    """What reads a store here."""
    return DiskProbe.files([Path(__file__)]).io


def _rates(device: DeviceRates, threads: int | None, source: str, caveat: str = "") -> Rates:
    """Kernels slow down with the threads that are missing; the disk does not."""
    share = min(1.0, (threads or usable_cores()) / device.threads)
    kernels = {
        level: (rates.dot_gbps * share, rates.accumulate_gbps * share)
        for level, rates in device.kernels.items()
    }
    return Rates(device.read_gbps, device.memory_gbps, kernels, source, caveat)
