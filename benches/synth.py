"""A store of random weights in the shape of a model whose weights are not here, at the disk's write rate.

    python benches/synth.py llama-2-7b DST                 level 4 alone (3.8 GB)
    python benches/synth.py llama-3-8b DST --planes all    all levels (16.6 GB)
    python benches/synth.py path/to/config.json DST

The store is valid and every command takes it, but what it says means nothing: the manifest calls it
synthetic, and so must every figure made with it. Random weights have no hot and no cold neurons. The
tokenizer is a stand-in (bytes, then fillers), and no token ends a text, so a run is as long as it is asked to
be. Prints one JSON object. An interrupted run is resumed by the same command.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2cache_rs import _core
from m2cache_rs.cli import output
from m2cache_rs.convert import encoding as encodings
from m2cache_rs.convert.journal import replace_file
from m2cache_rs.convert.partial import Partial
from m2cache_rs.convert.stripes import check_stripes
from m2cache_rs.convert.target import check_target
from m2cache_rs.errors import M2CacheError, UsageError
from m2cache_rs.machine.memory import peak_rss
from shape import NAMES, Shape
from stand_in import tokenizer_json

SPARE = 1 << 20  # manifest, journal and the directory itself
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def synthesize(
    shape: Shape,
    dst: str | Path,
    planes: str = "base",
    seed: int = 0,
    force: bool = False,
    stripe: Sequence[str | Path] = (),
) -> str:
    """Writes the store at `dst` and returns its id; `dst` appears when everything is written.

    `stripe` names directories on other devices, as `convert` takes them.

    Raises `UsageError`, `StoreIOError`.
    """
    if not 0 <= seed < 1 << 64:
        raise UsageError(f"seed is {seed}; it must lie in 0..2^64-1")
    encoding = encodings.choose(shape.architecture, "affine", 64, planes, None).to_dict()
    source = {"kind": "synthetic", "shape": shape.name, "seed": seed}
    target = check_target(dst, force)
    with Partial(target, check_stripes(stripe, target)) as partial:
        texts = shape.architecture.to_json(), json.dumps(encoding)
        writer = _core.StoreWriter(str(partial.path), *texts, [str(one.partial) for one in partial.stripes])
        plan = {
            "source": source,
            "architecture": shape.architecture.to_dict(),
            "encoding": encoding,
            "stripes": [str(one.parent) for one in partial.stripes],
        }
        partial.resume(plan, writer)
        assets = _assets(shape)
        _write(writer, partial, assets, seed)
        extra = {
            "generator": f"m2cache-rs {_core.__version__}",
            "source": source,
            "equalize": None,
            "synthetic": True,
            "assets": sorted(assets),
            "roots": partial.name_roots(),
        }
        store = writer.finish(json.dumps(extra))
        partial.publish(force)
    return store


def _assets(shape: Shape) -> dict[str, bytes]:
    """The model's configuration without the ids of a vocabulary that it does not have, and the stand-ins."""
    config = {name: value for name, value in shape.config.items() if name not in ENDS}
    return {
        "config.json": json.dumps(config, indent=2).encode(),
        "generation_config.json": json.dumps({"do_sample": False}).encode(),
        "tokenizer.json": tokenizer_json(shape.architecture.vocab),
    }


def _write(writer: _core.StoreWriter, partial: Partial, assets: dict[str, bytes], seed: int) -> None:
    done = {json.loads(entry)["name"] for entry in partial.journal.entries}
    work = [(name, size) for name, size in writer.files() if name not in done]
    total = sum(size for _, size in work)
    partial.check_space(_space(writer, partial, done, assets))
    for name, content in assets.items():
        replace_file(partial.path / name, content)
    with output.progress("writing", total) as tell:
        for index, (name, _) in enumerate(work):
            writer.begin(name)
            writer.synthesize(seed)
            partial.finished(writer.end())
            tell(sum(size for _, size in work[: index + 1]))


def _space(
    writer: _core.StoreWriter, partial: Partial, done: set[str], assets: dict[str, bytes]
) -> list[int]:
    """Bytes still to be written, by root."""
    needed = [SPARE] * (1 + len(partial.stripes))
    needed[0] += sum(map(len, assets.values()))
    for (name, size), root in zip(writer.files(), writer.roots(), strict=True):
        needed[root] += 0 if name in done else size
    return needed


def report(shape: Shape, dst: Path, store: str, seconds: float) -> dict[str, Any]:
    """What was made, and what it took."""
    size = sum(file.stat().st_size for file in dst.iterdir())
    return {
        "store": str(dst),
        "id": store,
        "shape": shape.name,
        "synthetic": True,
        "bytes": size,
        "seconds": round(seconds, 2),
        "MB_per_s": round(size / 1e6 / seconds, 1),
        "VmHWM_MiB": round(peak_rss() / 2**20, 1),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", metavar="SHAPE", help=f"{', '.join(NAMES)}, or the path of a config.json")
    parser.add_argument("dst", metavar="DST", type=Path, help="the new store, NAME.m2c")
    parser.add_argument("--planes", choices=tuple(encodings.STORED), default="base", help="what is stored")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same store")
    parser.add_argument("--force", action="store_true", help="replace a store that is there")
    chosen = parser.parse_args()
    begun = time.monotonic()
    shape = Shape.of(chosen.shape)
    store = synthesize(shape, chosen.dst, chosen.planes, chosen.seed, chosen.force)
    print(json.dumps(report(shape, chosen.dst, store, time.monotonic() - begun), indent=2))


if __name__ == "__main__":
    try:
        main()
    except (M2CacheError, OSError) as error:
        sys.exit(f"synth.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("synth.py: interrupted; the same command resumes")
