"""What a machine lacks, what that costs, and how to get it: from the report of `m2cache doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from m2cache_rs.config import format_size

# The ring of read buffers, which io_uring would like to have registered.
_RING = 64 << 20
# GB a second below which a disk is no SSD of today.
_SLOW = 0.5
_SMALL = 20 * 10**9

Finding = tuple[str, str, str]


def advice(report: dict[str, Any]) -> list[dict[str, str]]:
    """A list of {"what", "costs", "how"}; empty if nothing is to be had."""
    findings = [*_cores(report), *_memory(report["memory"]), *_reads(report), *_disk(report)]
    return [dict(zip(("what", "costs", "how"), one, strict=True)) for one in findings]


def _cores(report: dict[str, Any]) -> Iterator[Finding]:
    cores, measured = report["cpu"]["cores"], report["measured"]
    if cores["usable"] < cores["machine"]:
        yield (
            f"{cores['usable']} of {cores['machine']} cores usable",
            "the others do not compute",
            "Widen the affinity (taskset) or the cgroup's CPU quota (docker run --cpus)",
        )
    if refused := report["cpu"]["isa_refused"]:
        why, remedy = refused
        yield (
            "AMX is there, but is not used",
            f"{why}; prompts take kernels for {report['cpu']['isa']}",
            remedy,
        )
    dot, memory = measured["kernels"]["4"]["dot_gbps"], measured["memory_gbps"]
    if dot and memory and dot < memory / 2:
        yield (
            "computing is slower than memory",
            f"4-bit weights in memory are used at {dot:.1f} GB/s, memory gives {memory:.1f}",
            f"More than {cores['usable']} cores, or wider registers than {report['cpu']['isa']}",
        )


def _memory(memory: dict[str, Any]) -> Iterator[Finding]:
    for limit in memory["limits"]:
        if limit["bytes"] < memory["total_bytes"]:
            allowed, total = format_size(limit["bytes"]), format_size(memory["total_bytes"])
            yield (
                f"a cgroup allows {allowed} of {total} memory",
                "what does not fit is read from disk for every token",
                f"Raise the limit of {limit['cgroup']} (docker run --memory)",
            )
    if memory["huge_pages"] == "never":
        yield (
            "no transparent huge pages",
            "more page-table walks in every pass over the weights",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )
    lock = memory["memlock_bytes"]
    if lock is not None and lock < _RING:
        yield (
            f"only {format_size(lock)} may be locked",
            "io_uring cannot keep its buffers registered, so every read pins its pages anew",
            "ulimit -l unlimited (docker run --ulimit memlock=-1)",
        )


def _reads(report: dict[str, Any]) -> Iterator[Finding]:
    io = report["io"]
    if io["uring_refused"] is not None:
        yield "no io_uring", "reads go through threads: more CPU time for each", _uring_remedy(io)
    alignment = io["direct_alignment"]
    if alignment is not None and not alignment[1]:
        yield (
            "no O_DIRECT",
            "reads pass through the page cache: a copy more, and memory that no budget counts",
            "Put the store on ext4, xfs or btrfs",
        )


def _uring_remedy(io: dict[str, Any]) -> str:
    if io["uring_switched_off"]:
        return "Unset M2CACHE_IO_URING"
    if io["uring_sysctl"]:
        return "sudo sysctl kernel.io_uring_disabled=0"
    if io["seccomp"]:
        return "Allow io_uring_setup, _enter and _register in the container's seccomp profile"
    return "Linux 5.6 or newer has it"


def _disk(report: dict[str, Any]) -> Iterator[Finding]:
    device, free = report["device"], report["disk_free_bytes"]
    if device["in_memory"]:
        yield (
            f"{device['mount']} is memory",
            "a store here takes memory away from its own cache",
            "Measure a directory on a disk",
        )
        return
    if device["network"]:
        yield (
            f"{device['filesystem']} is a network file system",
            "every read crosses it",
            "Copy the store to a local SSD",
        )
    rates = [one["gbps"] for one in report["measured"]["read"]]
    if rates and max(rates) < _SLOW:
        yield (
            f"the disk reads {max(rates):.2f} GB/s at best",
            f"1 GB of weights that memory does not hold costs {1 / max(rates):.1f} s a token",
            "An NVMe SSD",
        )
    if free < _SMALL:
        yield (
            f"{format_size(free)} of disk free",
            "a store of 8 billion weights takes 17 GB with all planes",
            "Free some, or convert with --planes base (4.6 GB)",
        )
