"""The demo: convert a small model once, then write text through a weight cache of half the store.

    python examples/demo.py ["A prompt"]

The converted store stays in .demo/ and is used again when it is sound.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from m2cache_rs import Model

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("examples/models/tale-silu")
STORE = Path(".demo/tale-silu.m2c")
PROMPT = "In the beginning"
SETTINGS = {"max_new_tokens": 120, "temperature": 0.7, "top_p": 0.9, "seed": 3}
PARTS = {"attention": "qkvo", "feed-forward": ("gate", "up", "down"), "embedding and head": ("embed", "head")}


def main() -> None:
    """Converts when needed, generates, and tells what each tier did."""
    prompt = sys.argv[1] if len(sys.argv) > 1 else PROMPT
    store = ROOT / STORE
    if not sound(store):
        store.parent.mkdir(exist_ok=True)
        m2cache("convert", str(SOURCE), str(STORE), "--force")
    stored = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    report(stored, *write(store, prompt, stored // 2))


def sound(store: Path) -> bool:
    """Whether the store is there and every checksum in it holds."""
    return store.exists() and m2cache("verify", str(STORE), fine=(0, 1)) == 0


def m2cache(*arguments: str, fine: tuple[int, ...] = (0,)) -> int:
    """Runs one command of the package, showing it as a user would type it; ends with what it ends with."""
    show(*arguments)
    code = subprocess.run([Path(sys.executable).with_name("m2cache"), *arguments], cwd=ROOT).returncode
    return code if code in fine else sys.exit(code)


def show(*arguments: str, sign: str = "$") -> None:
    """A command line, as run here ($) or as one that would write the same text (#)."""
    print(sign, shlex.join(["m2cache", *arguments]), flush=True)


def write(store: Path, prompt: str, cache: int) -> tuple[int, int, float, dict[str, Any]]:
    """Streams a text to the terminal; returns the cache size, the tokens made, the seconds, the counters."""
    options = [
        text for name, value in SETTINGS.items() for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    show("generate", str(STORE), "--cache", str(cache), *options, "-p", prompt, sign="# from Python, like")
    with Model.open(store, cache=cache) as model:
        print(f"\n{prompt}", end="", flush=True)
        begin, tokens = time.perf_counter(), 0
        for token in model.generate(prompt, **SETTINGS):
            print(token.text, end="", flush=True)
            tokens += 1
        return cache, tokens, time.perf_counter() - begin, model.stats()


def report(stored: int, cache: int, tokens: int, seconds: float, stats: dict[str, Any]) -> None:
    """What each tier did for the text."""
    steps = sum(stats["tokens"].values())
    titles = f"{'used':>10}{'from cache':>12}{'from store':>12}{'hits':>8}{'reads':>8}"
    print(f"\n\n{'MiB per token':<22}{titles}")
    for part, of in PARTS.items():
        print(row(part, steps, [one for one in stats["sections"] if one["section"].split(".")[0] in of]))
    print(row("all weights", steps, [stats]))
    print(f"\nstore {mib(stored)}, weight cache {mib(cache)} ({cache / stored:.0%} of it)")
    print(f"{tokens / seconds:.0f} tokens/s, peak memory of this process {mib(stats['peak_rss_bytes'])}")


def row(label: str, steps: int, counters: list[dict[str, Any]]) -> str:
    """One line of the table: sums over counters, per token."""
    hit, read, reads = (sum(one[name] for one in counters) for name in ("hit_bytes", "read_bytes", "reads"))
    used, hit, read = ((size / steps / 2**20) for size in (hit + read, hit, read))
    return f"{label:<22}{used:>10.2f}{hit:>12.2f}{read:>12.2f}{hit / used:>8.0%}{reads / steps:>8.0f}"


def mib(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 2**20:.1f} MiB"


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads any more, as behind `| head`; what is buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
