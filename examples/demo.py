"""The demo: convert a small model once, then write text through a weight cache of half the store.

    python examples/demo.py ["A prompt"]

The converted store stays in .demo/ and is used again when it is sound.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2cache_rs import Model

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("examples/models/tale-silu")
STORE = Path(".demo/tale-silu.m2c")
PROMPT = "In the beginning"
TOKENS = 120
SEED = 7


def main() -> None:
    """Converts when needed, generates, and tells what each tier did."""
    prompt = sys.argv[1] if len(sys.argv) > 1 else PROMPT
    store = ROOT / STORE
    if not sound(store):
        store.parent.mkdir(exist_ok=True)
        m2cache("convert", str(SOURCE), str(STORE), "--force", check=True)
    stored = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    report(stored, *write(store, prompt, stored // 2))


def sound(store: Path) -> bool:
    """Whether the store is there and every checksum in it holds."""
    return store.exists() and m2cache("verify", str(STORE)).returncode == 0


def m2cache(*arguments: str, check: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Runs one command of the package, showing it as a user would type it."""
    print("$ m2cache", *arguments, flush=True)
    return subprocess.run([Path(sys.executable).with_name("m2cache"), *arguments], cwd=ROOT, check=check)


def write(store: Path, prompt: str, cache: int) -> tuple[int, int, float, dict[str, Any]]:
    """Streams a text to the terminal; returns the cache size, the tokens made, their seconds, and the statistics."""
    print(f'$ m2cache generate {STORE} -p "{prompt}" --cache {cache} --temperature 0.8 --seed {SEED}\n')
    with Model.open(store, cache=cache) as model:
        print(prompt, end="", flush=True)
        begin, tokens = time.perf_counter(), 0
        for token in model.generate(prompt, max_new_tokens=TOKENS, temperature=0.8, seed=SEED):
            print(token.text, end="", flush=True)
            tokens += 1
        return cache, tokens, time.perf_counter() - begin, model.stats()


def report(stored: int, cache: int, tokens: int, seconds: float, stats: dict[str, Any]) -> None:
    """The figures behind the text."""
    print("\n")
    touched = stats["hit_bytes"] + stats["read_bytes"]
    rows = stats["tokens"]["decode"] + stats["tokens"]["prompt"]
    for label, value in {
        "store on disk": mib(stored),
        "weight cache": f"{mib(cache)} ({cache / stored:.0%} of the store)",
        "weights touched per token": mib(touched / rows),
        "  from the cache": f"{mib(stats['hit_bytes'] / rows)} ({stats['hit_bytes'] / touched:.0%})",
        "  from the store": f"{mib(stats['read_bytes'] / rows)} ({stats['reads'] / rows:.0f} reads)",
        "tokens per second": f"{tokens / seconds:.1f}",
        "peak memory of the process": mib(stats["peak_rss_bytes"]),
    }.items():
        print(f"{label:<28}{value}")
    print()
    print("\n".join(sections(stats["sections"])))


def sections(found: list[dict[str, Any]]) -> Iterator[str]:
    """What was streamed, a line for each kind of section."""
    yield f"{'section':<20}{'stored':>12}{'from cache':>14}{'from store':>14}{'reads':>9}"
    for one in found:
        sizes = mib(one["stored_bytes"]), mib(one["hit_bytes"]), mib(one["read_bytes"])
        yield f"{one['section']:<20}{sizes[0]:>12}{sizes[1]:>14}{sizes[2]:>14}{one['reads']:>9}"


def mib(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 2**20:.2f} MiB"


if __name__ == "__main__":
    main()
