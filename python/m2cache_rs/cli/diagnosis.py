"""The report of `m2cache doctor` as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from m2cache_rs.cli import output
from m2cache_rs.config import format_size
from m2cache_rs.machine.measure import DEPTHS


def print_report(report: dict[str, Any]) -> None:
    """Facts, tables of rates, notes, advice, and where the rates are."""
    output.print_rows(list(_rows(report)))
    _print_table("read, GB/s", _read_table(report["measured"]["read"]))
    _print_table("stored weights, GB/s", _kernel_table(report["measured"]["kernels"]))
    # Why there is no io_uring has a row of its own.
    reader = [] if report["io"]["uring_refused"] else report["io"]["notes"]
    _print_lines("notes", [*report["measured"]["notes"], *reader])
    advice = [f"{one['what']}: {one['costs']}. {one['how']}" for one in report["advice"]]
    _print_lines("what would help", advice or ["nothing that this version knows of"])
    print(f"\nrates {output.one_line(_kept(report))}")
    seconds, peak = report["measured"]["seconds"], format_size(report["peak_rss_bytes"])
    print(f"measured in {seconds:.1f} s, peak memory of this process {peak}")


def _kept(report: dict[str, Any]) -> str:
    if not report["rates_file"]:
        return f"not kept: {report['rates_problem']}"
    before = report["rates_replaced"]
    return f"kept in {report['rates_file']}" + (f", in place of those of {before}" if before else "")


def _print_lines(title: str, lines: list[str]) -> None:
    if lines:
        print("\n".join(["", title, *(f"- {output.one_line(line)}" for line in lines)]))


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _cpu_rows(report["cpu"])
    yield from _memory_rows(report["memory"], report["measured"])
    yield from _disk_rows(report)
    yield "GPU", ", ".join(report["gpus"]) or "none (this version computes on the CPU)"
    yield "software", ", ".join(f"{name} {version}" for name, version in report["software"].items())


def _cpu_rows(cpu: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cores = cpu["cores"]
    quota = "" if cores["quota"] is None else f", CPU time for {cores['quota']:.1f}"
    yield (
        "CPU",
        f"{cpu['model']}; {' '.join(cpu['sets']) or 'no vector sets known here'}; kernels use {cpu['isa']}",
    )
    yield "cores", f"{cores['usable']} usable ({cores['machine']} there, {cores['affinity']} allowed{quota})"


def _memory_rows(memory: dict[str, Any], measured: dict[str, Any]) -> Iterator[tuple[str, str]]:
    limits = [f"{format_size(one['bytes'])} in {one['cgroup']}" for one in memory["limits"]]
    total, free = format_size(memory["total_bytes"]), format_size(memory["free_bytes"])
    yield "memory", f"{total}, {free} free for a model; cgroup limits: {', '.join(limits) or 'none'}"
    one, everyone = (_rate(measured[name]) for name in ("memory_one_thread_gbps", "memory_gbps"))
    yield "bandwidth", f"{everyone} GB/s with {measured['threads'] or 'all'} threads, {one} with one"
    used = memory["swap_bytes"] - memory["swap_free_bytes"]
    yield (
        "swap",
        f"{format_size(memory['swap_bytes'])}, {format_size(used)} used" if memory["swap_bytes"] else "none",
    )
    yield "huge pages", memory["huge_pages"]
    lock = memory["memlock_bytes"]
    yield "locked pages", "no limit" if lock is None else f"{format_size(lock)} at most"


def _disk_rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    device, io, free = report["device"], report["io"], format_size(report["disk_free_bytes"])
    size = "" if device["bytes"] is None else f", {format_size(device['bytes'])}"
    model = f" ({device['model']})" if device["model"] else ""
    yield "disk", f"{device['name']}{model}{size}, {device['filesystem']} at {device['mount']}, {free} free"
    if report["devices"] != device["key"]:
        yield "striped over", report["devices"]
    yield "io_uring", "yes" if io["uring_refused"] is None else f"no: {io['uring_refused']}"
    yield "O_DIRECT", _direct(io["direct_alignment"])
    yield "what was read", report["measured"]["read_what"]


def _direct(alignment: tuple[int, int] | None) -> str:
    if alignment is None:
        return "the file system does not tell its alignment"
    return f"yes, offsets aligned to {alignment[1]} bytes" if alignment[1] else "refused by the file system"


def _read_table(read: list[dict[str, Any]]) -> list[list[str]]:
    """Sizes as columns; rows by depth, the last as deep as the engine reads blocks of each size."""
    sizes, depths = (sorted({one[name] for one in read}) for name in ("bytes", "depth"))
    few = [depth for depth in depths if depth < DEPTHS[0] and depth in DEPTHS]
    many = [depth for depth in depths if depth not in few]
    rows = [_depth_row(read, sizes, group) for group in ([depth] for depth in few)]
    rows += [_depth_row(read, sizes, many)] if many else []
    return [["", *map(format_size, sizes)], *rows] if rows else []


def _depth_row(read: list[dict[str, Any]], sizes: list[int], depths: list[int]) -> list[str]:
    rates = {one["bytes"]: one["gbps"] for one in read if one["depth"] in depths}
    label = " to ".join(str(depth) for depth in dict.fromkeys((depths[0], depths[-1])))
    return [f"{label} at a time", *(_rate(rates.get(size)) for size in sizes)]


def _kernel_table(kernels: dict[str, dict[str, float | None]]) -> list[list[str]]:
    names = {"dot_gbps": "dots", "accumulate_gbps": "accumulations"}
    rows = [[shown, *(_rate(one[name]) for one in kernels.values())] for name, shown in names.items()]
    return [["", *(f"{bits} bits" for bits in kernels)], *rows]


def _print_table(title: str, rows: list[list[str]]) -> None:
    """The first column to the left, the others to the right."""
    if not rows:
        return
    rows[0][0] = title
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print()
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([f"{row[0]:{widths[0]}}", *cells]))


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
