"""Peak memory and rate of converting a random bf16 checkpoint with tensors of 1.5 GB.

    python benches/convert_memory.py                 one tensor of 1.5 GB, the embedding
    python benches/convert_memory.py --tensor ffn    three: gate, up, and down, which is read by columns
    python benches/convert_memory.py --equalize      with the extra pass over the columns

Prints one JSON object. VmHWM is the converting process's, interpreter and libraries included.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from m2cache_rs.models import architecture_of, family_of

HIDDEN = 4096
CHUNK = 8 << 20  # values drawn at a time

CHILD = """
import json, sys
from m2cache_rs.convert import convert
report = convert(sys.argv[1], sys.argv[2], equalize=sys.argv[3] == "equalize")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0])
print(json.dumps({"seconds": report.seconds, "store_bytes": report.bytes, "VmHWM_kB": peak}))
"""


def config(tensor: str, rows: int) -> dict[str, Any]:
    """A model of one layer whose embedding or FFN matrices have `rows` rows of 4,096."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": rows if tensor == "ffn" else 1024,
        "vocab_size": rows if tensor == "embed" else 1024,
        "tie_word_embeddings": True,
    }


def write_checkpoint(path: Path, values: dict[str, Any]) -> int:
    """Writes the model with normal random weights; returns the bytes of its tensors."""
    spec = architecture_of(values)[1]
    family = family_of(spec)
    tensors = [*family.layer_tensors(spec, 0).values(), *family.outer_tensors(spec).values()]
    header, at = {}, 0
    for tensor in tensors:
        end = at + 2 * math.prod(tensor.shape)
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        write_random(file, at // 2)
    (path / "config.json").write_text(json.dumps(values))
    (path / "tokenizer.json").write_text("{}")
    return at


def write_random(file: Any, count: int) -> None:
    """Writes `count` bf16 values."""
    random = np.random.default_rng(0)
    for done in range(0, count, CHUNK):
        drawn = random.standard_normal(min(CHUNK, count - done), np.float32) * np.float32(0.02)
        file.write((drawn.view(np.uint32) >> 16).astype(np.uint16))


def main() -> None:
    """Makes the checkpoint, converts it in a process of its own, prints what that took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tensor", choices=("embed", "ffn"), default="embed")
    parser.add_argument("--gigabytes", type=float, default=1.5, help="size of the large tensor (default 1.5)")
    parser.add_argument("--equalize", action="store_true")
    parser.add_argument("--dir", type=Path, help="where 3 to 10 GB may be written for a while")
    chosen = parser.parse_args()
    rows = round(chosen.gigabytes * 1e9 / 2 / HIDDEN)
    with tempfile.TemporaryDirectory(dir=chosen.dir) as folder:
        source = Path(folder) / "model"
        source.mkdir()
        size = write_checkpoint(source, config(chosen.tensor, rows))
        result = convert(source, chosen.equalize)
    peak = result.pop("VmHWM_kB") / 1024
    made = {"tensor": chosen.tensor, "tensor_bytes": 2 * rows * HIDDEN, "source_bytes": size}
    rate = size / 1e6 / result["seconds"]
    print(json.dumps({**made, **result, "MB_per_s": round(rate, 1), "VmHWM_MiB": round(peak, 1)}))
    if peak >= 1024:
        sys.exit("peak memory is not below 1 GiB")


def convert(source: Path, equalize: bool) -> dict[str, Any]:
    """Runs the conversion; the time counts it alone, not the start of Python."""
    arguments = [str(source), str(source.with_name("store.m2c")), "equalize" if equalize else "plain"]
    begun = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], check=True, capture_output=True, text=True
    )
    result: dict[str, Any] = json.loads(child.stdout)
    return result | {
        "wall_seconds": round(time.monotonic() - begun, 2),
        "seconds": round(result["seconds"], 2),
    }


if __name__ == "__main__":
    main()
