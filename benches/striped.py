"""Decoding from one device and from a store striped over two: what the second adds, on emulated devices.

    python benches/striped.py                      two devices of 300 MB/s, both engines: 2 minutes
    python benches/striped.py --mbps 100 --io psync

Emulated: the devices are files with a file system each (loop devices), and a cgroup limits the rate at which
decoding reads each of them, past the page cache. Weights are random (synthetic, 1.4 GB at 4 bits: twelve
layers of LLaMA-2-7B); the cache has four tenths of their size. The same text has to come from both stores.
Twice the speed is expected. Needs root, ext4, loop devices and
the blkio controller of cgroups version 1; 3 GB in --work, all of which is removed. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from limits import options
from limits.capped import loops
from limits.capped.cgroup import Cgroup
from limits.capped.runs import RunError
from shape import Shape
from synth import synthesize

# Fewer layers, and a vocabulary whose head is no layer of its own: it would keep one device longer.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 12,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 8192,
}
DEVICE = 3 << 30
SHARE = 0.4


def make(points: list[Path], work: Path) -> dict[str, Path]:
    """The same store on the first device and over both."""
    folder = work / "twelve layers of llama-2-7b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shape = Shape.of(str(folder / "config.json"))
    stores = {"one device": points[0] / "one.m2c", "two devices": points[0] / "two.m2c"}
    synthesize(shape, stores["one device"])
    synthesize(shape, stores["two devices"], stripe=points[1:])
    return stores


def decode(store: Path, group: Cgroup, io: str, new: int) -> dict[str, Any]:
    """Runs our command line in the group."""
    cache = int(SHARE * sum(file.stat().st_size for file in store.parent.glob("one.m2c/*.safetensors")))
    words = ["--max-new-tokens", str(new), "--cache", str(cache), "--io", io, "--json"]
    command = [sys.executable, "-m", "m2cache_rs", "generate", str(store), "-p", "Once", *words]
    done = subprocess.run(group.command(command), capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"m2cache generate failed: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(stores: dict[str, Path], group: Cgroup, io: str, new: int) -> dict[str, Any]:
    """Tokens a second of both stores. Raises `RunError` where they say different things."""
    runs = {name: decode(store, group, io, new) for name, store in stores.items()}
    one, two = runs.values()
    if one["text"] != two["text"]:
        raise RunError(f"the striped store says {two['text']!r}, the other {one['text']!r}")
    return {
        "io": one["stats"]["io"],
        "tokens_per_second": {name: round(run["tokens_per_second"], 3) for name, run in runs.items()},
        "ratio": round(two["tokens_per_second"] / one["tokens_per_second"], 2),
        "ring_bytes": {name: run["budget"]["ring"] for name, run in runs.items()},
    }


def chosen_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mbps", type=int, default=300, help="MB/s of each device (default 300)")
    parser.add_argument("--new-tokens", type=int, default=8, help="tokens to decode (default 8)")
    parser.add_argument("--io", choices=("uring", "psync"), action="append", help="engine (default: both)")
    parser.add_argument("--work", type=Path, default=Path(), help="where the devices' files go (default .)")
    chosen = parser.parse_args()
    if chosen.mbps < 1 or chosen.new_tokens < 2:
        parser.error("--mbps must be at least 1, --new-tokens at least 2")
    return chosen


def main() -> None:
    """Makes devices and stores, measures, prints, removes all."""
    chosen = chosen_options()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=chosen.work, prefix="striped-")))
        points = [stack.enter_context(loops.mounted(work, DEVICE)) for _ in range(2)]
        stores = make(points, work)
        group = stack.enter_context(loops.throttled(points, chosen.mbps * 1_000_000))
        engines = chosen.io or ["uring", "psync"]
        found = [compare(stores, group, io, chosen.new_tokens) for io in engines]
    label = f"emulated devices of {chosen.mbps} MB/s, synthetic weights"
    print(json.dumps({"label": label, "measured": found}, indent=1))


if __name__ == "__main__":
    options.run("striped.py", main, (loops.NoDevicesError, RunError), "nothing is left of it")
