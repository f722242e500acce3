"""What other cache sizes and policies would have made of a recorded trace, without the model (docs/trace.md).

    m2cache generate STORE -p TEXT --trace run.trace
    python benches/replay.py run.trace
    python benches/replay.py run.trace --dram 1GiB,2GiB,4GiB --policies fixed,lru

Prints the share of bytes that decode passes (prompts, where there are none) find in the cache. Sizes are
those of the cached weights alone: what passes by needs a ring beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from m2cache_rs._core import replay
from m2cache_rs.config import format_size, parse_size
from m2cache_rs.errors import M2CacheError

POLICIES = ("fixed", "lru", "fifo", "lfu")
SHARES = (0.1, 0.3, 0.5, 0.6, 0.8, 0.9, 1.0)


def main() -> None:
    """Replays every policy at every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--dram", metavar="SIZES", help="with commas between; default: shares of all weights")
    parser.add_argument(
        "--policies", default="all", metavar="NAMES", help="with commas between; default: all"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    chosen = parser.parse_args()
    try:
        report = run(chosen.trace, chosen.dram, chosen.policies)
    except (M2CacheError, OSError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps(report) if chosen.json else table(report))


def run(trace: Path, dram: str | None, policies: str) -> dict[str, Any]:
    """Every policy at every size, as {"trace", "synthetic", "all_bytes", "results": [...]}."""
    names = POLICIES if policies == "all" else tuple(policies.split(","))
    everything = json.loads(replay(trace, names[0], 0))["all_bytes"]
    sizes = [parse_size(size, "--dram") for size in dram.split(",")] if dram else shares(everything)
    results = [
        {"policy": name, "dram": size, **json.loads(replay(trace, name, size))}
        for size in sizes
        for name in names
    ]
    with trace.open() as file:
        header = json.loads(file.readline())
    told = {key: header[key] for key in ("store", "levels", "synthetic")}
    return {"trace": str(trace), **told, "all_bytes": everything, "results": results}


def shares(everything: int) -> list[int]:
    return [round(share * everything) for share in SHARES]


def hit_rate(result: dict[str, Any]) -> float:
    """Share of the bytes that were found in the cache."""
    counted = result["decode"] if result["decode"]["accesses"] else result["prompt"]
    return float(counted["hit_bytes"] / max(counted["hit_bytes"] + counted["read_bytes"], 1))


def table(report: dict[str, Any]) -> str:
    """A row a size, a column a policy."""
    names = list(dict.fromkeys(result["policy"] for result in report["results"]))
    rows = ["| cache | share | " + " | ".join(names) + " |", "| --- " * (len(names) + 2) + "|"]
    for size in dict.fromkeys(result["dram"] for result in report["results"]):
        rates = [f"{hit_rate(one):.1%}" for one in report["results"] if one["dram"] == size]
        rows.append(f"| {format_size(size)} | {size / report['all_bytes']:.0%} | {' | '.join(rates)} |")
    if report["synthetic"] is not None:
        made = json.dumps(report["synthetic"])
        rows.insert(0, f"SYNTHETIC accesses, made up by {made}; quality not shown by this figure.\n")
    return "\n".join(rows)


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more, as behind `| head`; what is buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
