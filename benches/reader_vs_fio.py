"""Our readers beside fio on the same file: random reads with O_DIRECT, the programs taking turns.

    python benches/reader_vs_fio.py                   makes a file of 8 GB in ., five runs of 5 s: 4 minutes
    python benches/reader_vs_fio.py --file BIG.bin    reads a file that is there and stays there
    python benches/reader_vs_fio.py --seconds 1 --runs 1 --gigabytes 1

fio comes with the distribution (`apt install fio`); cargo builds our side. fio reads as we do: by io_uring,
with registered files and buffers, into huge pages. Prints medians in GB/s (1e9 bytes) and the ratio of uring
to fio; at least 0.95 is asked for. Writes --json (default benches/results/reader.json).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BLOCKS = (64 << 10, 256 << 10, 1 << 20)
DEPTH = 32
TARGET = 0.95
CHUNK = 64 << 20


def build() -> Path:
    """Builds the program of our side and returns it."""
    subprocess.run(["cargo", "build", "--release", "--quiet", "--example", "reader"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/reader"


@contextmanager
def file_to_read(given: Path | None, gigabytes: float) -> Iterator[Path]:
    """The file given, or a new one of random bytes that is on disk and is removed afterwards."""
    if given is not None:
        yield given
        return
    with tempfile.NamedTemporaryFile(dir=".", prefix="reader-", suffix=".bin") as file:
        for _ in range(max(1, int(gigabytes * 1e9 / CHUNK))):
            file.write(os.urandom(CHUNK))
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)


def ours(program: Path, file: Path, block: int, seconds: float) -> dict[str, float]:
    """GB/s of each of our engines."""
    command = [program, file, str(block), str(DEPTH), str(seconds), "uring", "psync"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in out.splitlines()]
    for note in {note for line in lines for note in line["notes"]}:
        print(f"note: {note}", file=sys.stderr)
    return {line["engine"]: line["gbps"] for line in lines}


def version() -> str:
    """fio's version."""
    return subprocess.run(["fio", "--version"], check=True, capture_output=True, text=True).stdout.strip()


def fio(file: Path, block: int, seconds: float) -> dict[str, float]:
    """GB/s of fio."""
    settings = {
        "name": "reader",
        "filename": file,
        "rw": "randread",
        "bs": block,
        "ioengine": "io_uring",
        "iodepth": DEPTH,
        "direct": 1,
        "fixedbufs": 1,
        "registerfiles": 1,
        "norandommap": 1,
        "randrepeat": 0,
        "runtime": f"{max(1, round(seconds))}s",
        "time_based": 1,
        # O_DIRECT meets no cache; without this, fio counts the time it takes to drop the file's pages.
        "invalidate": 0,
        "output-format": "json",
    }
    command = ["fio", "--readonly", *(f"--{name}={value}" for name, value in settings.items())]
    # Huge pages, by glibc's own switch: our slots lie in such pages too, and on a virtual disk it shows.
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return {"fio": json.loads(out)["jobs"][0]["read"]["bw_bytes"] / 1e9}


def measure(program: Path, file: Path, block: int, runs: int, seconds: float) -> dict[str, Any]:
    """All runs of one block size, with medians and the ratio."""
    gbps: dict[str, list[float]] = {"fio": [], "uring": [], "psync": []}
    for turn in range(runs):
        sides = [lambda: fio(file, block, seconds), lambda: ours(program, file, block, seconds)]
        for side in sides if turn % 2 == 0 else reversed(sides):
            for name, value in side().items():
                gbps[name].append(value)
    medians = {name: statistics.median(values) for name, values in gbps.items()}
    ratio = medians["uring"] / medians["fio"]
    return {"bytes": block, "depth": DEPTH, "gbps": gbps, "medians": medians, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--gigabytes", type=float, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, default=ROOT / "benches/results/reader.json")
    options = parser.parse_args()
    if shutil.which("fio") is None:
        parser.error("fio is not installed: apt install fio (or your distribution's package of that name)")
    program = build()
    with file_to_read(options.file, options.gigabytes) as file:
        about = {
            "processor": platform.processor() or platform.machine(),
            "kernel": platform.release(),
            "fio": version(),
            "file_bytes": file.stat().st_size,
            "seconds": options.seconds,
        }
        rows = []
        print("block KiB   fio  uring  psync  uring/fio   (medians, GB/s)")
        for block in BLOCKS:
            row = measure(program, file, block, options.runs, options.seconds)
            rows.append(row)
            median = row["medians"]
            print(
                f"{block >> 10:9}  {median['fio']:4.2f}  {median['uring']:5.2f}  {median['psync']:5.2f}"
                f"  {row['ratio']:9.3f}{'' if row['ratio'] >= TARGET else f'   below {TARGET}'}",
                flush=True,
            )
    options.json.write_text(json.dumps({"about": about, "target": TARGET, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
