"""`m2cache doctor`: what this machine and a disk of it can do, and what would make them faster."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import output
from m2cache_rs.cli.advice import advice
from m2cache_rs.cli.diagnosis import print_report
from m2cache_rs.config import LEVELS, format_size, user_path
from m2cache_rs.errors import UsageError

if TYPE_CHECKING:
    from m2cache_rs.machine.device_rates import DeviceRates
    from m2cache_rs.machine.measure import Measured

_LONGEST = 3600.0
_PACKAGES = ("m2cache-rs", "numpy", "tokenizers", "typer", "rich", "torch")


def doctor(
    directory: Annotated[
        Path,
        typer.Argument(
            parser=user_path,
            metavar="[DIR]",
            help="A store, or a directory on the disk that will hold stores.",
        ),
    ] = Path("."),
    seconds: Annotated[float, typer.Option(help="Time for measuring, at most.")] = 15.0,
    no_write: Annotated[
        bool,
        typer.Option("--no-write", help="Write nothing: neither a file to measure with nor the rates."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure this machine and the disk under DIR; say what is missing, what that costs, how to get it.

    A store is measured by reading its files; elsewhere a nameless file of up to 512 MiB is written and read.
    The result is kept, and from it speeds are predicted.
    """
    directory = user_path(directory)
    _check(directory, seconds)
    from m2cache_rs.machine.measure import measure, steps
    from m2cache_rs.machine.memory import peak_rss

    with output.progress("measuring", steps(), unit="steps") as progress:
        found = measure(directory, seconds, write=not no_write, progress=progress)
    report = {"directory": str(directory), **_machine(directory, found), "measured": _measured(found)}
    report |= _kept(problem="not asked for") if no_write else _keep(found, directory)
    report["advice"] = advice(report)
    report["peak_rss_bytes"] = peak_rss()
    output.print_json(report) if json else print_report(report)


def _check(directory: Path, seconds: float) -> None:
    if not directory.exists():
        raise UsageError(f"{directory} does not exist; give a directory on the disk to measure")
    if not directory.is_dir():
        raise UsageError(f"{directory} is a file; give the directory it lies in")
    if not 0 < seconds <= _LONGEST:
        raise UsageError(f"seconds is {seconds}; it must be above 0 and at most {_LONGEST:.0f}")


def _machine(directory: Path, found: Measured) -> dict[str, Any]:
    """What need not be measured."""
    from m2cache_rs._core import isa, isa_refused
    from m2cache_rs.machine import machine
    from m2cache_rs.machine.device import device_of, devices_key
    from m2cache_rs.machine.memory import free_memory

    memory, space, device = machine.meminfo(), os.statvfs(directory), device_of(directory)
    return {
        "cpu": {
            "model": machine.cpu_model(),
            "sets": machine.cpu_sets(),
            "kernel_sets": isa()[0],
            "isa": isa()[1],
            "isa_refused": isa_refused(),
            "cores": machine.cores() | {"usable": machine.usable_cores()},
        },
        "memory": {
            "total_bytes": memory["MemTotal"],
            "free_bytes": free_memory(),
            "limits": machine.memory_limits(),
            "swap_bytes": memory["SwapTotal"],
            "swap_free_bytes": memory["SwapFree"],
            "huge_pages": machine.huge_pages(),
            "memlock_bytes": machine.memlock(),
        },
        "device": asdict(device)
        | {"key": device.key, "in_memory": device.in_memory, "network": device.network},
        "devices": devices_key(directory),
        "disk_free_bytes": space.f_bavail * space.f_frsize,
        "io": {
            "engine": found.io,
            "notes": found.reader_notes,
            "uring_refused": _uring_refused(),
            "uring_switched_off": os.environ.get("M2CACHE_IO_URING") == "off",
            "uring_sysctl": machine.uring_sysctl(),
            "seccomp": machine.seccomp(),
            "direct_alignment": found.alignment,
        },
        "gpus": machine.gpus(),
        "software": {"python": platform.python_version(), "linux": platform.release(), **dict(_versions())},
    }


def _uring_refused() -> str | None:
    """Why there is no io_uring, None where there is."""
    from m2cache_rs._core import DiskProbe

    probe = DiskProbe.files([Path(__file__)])
    reasons = [note.partition("io_uring cannot be used here: ")[2] for note in probe.notes]
    return None if probe.io == "uring" else next(filter(None, reasons), "no reason given")


def _versions() -> Iterator[tuple[str, str]]:
    """Of the packages that are installed; none is imported for that."""
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _measured(found: Measured) -> dict[str, Any]:
    kernels = {
        str(bits): {"dot_gbps": found.dot_gbps.get(bits), "accumulate_gbps": found.accumulate_gbps.get(bits)}
        for bits in LEVELS
    }
    return {
        "source": found.source,
        "read_what": found.read_what,
        "read": [asdict(rate) for rate in found.read],
        "memory_gbps": found.memory_gbps,
        "memory_one_thread_gbps": found.memory_one_gbps,
        "kernels": kernels,
        "threads": found.threads,
        "notes": found.notes,
        "seconds": found.seconds,
    }


def _keep(found: Measured, directory: Path) -> dict[str, str | None]:
    """Where the rates are kept and when those were made that they replace, or why they are not kept."""
    from m2cache_rs.machine.device_rates import load, rates_path, save, weaker

    rates = found.device_rates(directory)
    if rates is None:
        return _kept(problem="not all of it was measured")
    try:
        there, _ = load(directory)
        why = weaker(rates, there) if there else ""
        if there and why:
            return _kept(problem=_stays(there, rates_path(directory), why))
        return _kept(str(save(rates, directory)), replaced=there.made if there else None)
    except OSError as error:
        return _kept(problem=str(error))


def _kept(file: str | None = None, problem: str | None = None, replaced: str | None = None) -> dict[str, Any]:
    return {"rates_file": file, "rates_problem": problem, "rates_replaced": replaced}


def _stays(there: DeviceRates, path: Path, why: str) -> str:
    """Why rates do not replace those that are there."""
    read = f" from {format_size(there.read_bytes)}" if there.read_bytes else ""
    return f"{path} stays, measured{read} at {there.made}: {why} (remove that file to keep these)"
