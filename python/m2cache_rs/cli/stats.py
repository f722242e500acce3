"""The table of `--stats`: where bytes came from and where time went, per pass of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from m2cache_rs.cli.words import figures
from m2cache_rs.config import format_size
from m2cache_rs.runtime.accounting import PARTS, Account, accounts

# Layers are shown one by one up to so many; of more, the slowest.
_LAYERS = 8
_TITLES = (
    "cached",
    "read",
    "beside",
    "unused",
    "reads",
    "stalls",
    "waited",
    "computed",
    "of bound",
)


def table(stats: Mapping[str, Any], read: Callable[[int], float] | None) -> Iterator[str]:
    """Lines for a reader. `read` is the disk's rate by size, None where it was never measured."""
    passes = max(1, stats["passes"])
    found = list(accounts(stats))
    layers = [one for one in found if one.name.startswith("layer ")]
    slowest = sorted(layers, key=lambda one: -one.wait_seconds)[: 1 if len(layers) > _LAYERS else None]
    shown = [one for one in found if one.name in PARTS] + [one for one in layers if one in slowest]
    shown += [one for one in found if one.name in ("ends", "all")]
    tokens = ", ".join(f"{count} {kind}" for kind, count in stats["tokens"].items() if count)
    if stats["touched"] is not None:
        yield _touched(stats["touched"])
    yield f"per pass of the model, of {stats['passes']} ({tokens} tokens; {stats['io']}, {stats['isa']})"
    yield f"{'':<20}" + "".join(f"{title:>11}" for title in _TITLES)
    yield from (_line(one, passes, read) for one in shown)


def _touched(parts: Mapping[str, float]) -> str:
    named = ", ".join(f"{part} {format_size(size)}" for part, size in parts.items())
    return f"a new token touched {format_size(sum(parts.values()))} of records ({named})"


def _line(one: Account, passes: int, read: Callable[[int], float] | None) -> str:
    beside = one.aligned_bytes + one.gap_bytes
    sizes = (one.hit_bytes, one.read_bytes, beside, one.unused_bytes)
    cells = [format_size(size / passes) for size in sizes]
    cells += [f"{count / passes:.1f}" for count in (one.reads, one.stalls)]
    cells += [_milliseconds(time, passes) for time in (one.wait_seconds, one.compute_seconds)]
    share = one.bound_share(read) if read else None
    cells.append("" if share is None else f"{share:.0%}")
    return f"{one.name:<20}" + "".join(f"{cell:>11}" for cell in cells)


def _milliseconds(seconds: float | None, passes: int) -> str:
    if seconds is None:
        return ""
    time = seconds / passes * 1e3
    return f"{figures(time)} ms" if time < 100 else f"{time:.0f} ms"
