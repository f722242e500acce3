"""Run by the peer's Python: decodes greedily with llama.cpp and prints what that took as one JSON object.

    python -m limits.capped.llama_run MODEL.gguf NEW_TOKENS THREADS ID [ID ...]

The file is mapped, and its weights are used where they lie: with `use_extra_bufts` llama.cpp would repack
them into memory of its own, which a cap below the model's size kills. `anonymous` says whether it did.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import llama_cpp

from limits.peer.llama_api import Log, load, start, step, vocabulary


def process() -> dict[str, int]:
    """Bytes of this process: what it read of the disk, and its resident pages."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    read = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["read_bytes"]
    kinds = {"peak": "VmHWM", "anonymous": "RssAnon", "file": "RssFile"}
    return {name: int(status[key].split()[0]) * 1024 for name, key in kinds.items()} | {"read": int(read)}


def main() -> None:
    """One prompt, then one token after the other."""
    path, new, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ids = [int(word) for word in sys.argv[4:]]
    log = Log()
    begun = time.perf_counter()
    llama_cpp.llama_backend_init()
    model = load(path, log, mapped=True)
    vocab = vocabulary(model)
    context = start(model, log, len(ids) + new, threads)
    loaded = time.perf_counter()
    token = step(context, ids, vocab)
    first, before = time.perf_counter(), process()
    for _ in range(new - 1):
        token = step(context, [token], vocab)
    ended, after = time.perf_counter(), process()
    result = {
        "load_seconds": loaded - begun,
        "first_token_seconds": first - loaded,
        "decode_seconds": ended - first,
        "tokens": new,
        "prompt_tokens": len(ids),
        "decode_read_bytes": after["read"] - before["read"],
        **{name: after[name] for name in ("peak", "anonymous", "file")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
