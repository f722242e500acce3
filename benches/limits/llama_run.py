"""Run by the peer's Python: decodes greedily with llama.cpp and prints what that took as one JSON object.

    python llama_run.py MODEL.gguf NEW_TOKENS THREADS ID [ID ...]

The file is mapped, and its weights are used where they lie: with `use_extra_bufts` llama.cpp would repack
them into memory of its own, which a cap below the model's size kills. `anonymous` says whether it did.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path

import llama_cpp
import numpy as np


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp logs hundreds of lines a model; errors still surface as return codes."""


def load(path: str) -> ctypes.c_void_p:
    """The model, mapped."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = False
    if hasattr(params, "load_mode"):
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
    else:
        params.use_mmap = True
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    return model


def start(model: ctypes.c_void_p, positions: int, threads: int) -> ctypes.c_void_p:
    """A context of just the positions needed."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = positions, min(positions, 512), min(positions, 512)
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        sys.exit("llama.cpp cannot make a context")
    return context


def step(context: ctypes.c_void_p, ids: list[int], vocab: int) -> int:
    """Runs the ids; the likeliest next one."""
    for first in range(0, len(ids), 512):
        part = ids[first : first + 512]
        held = (llama_cpp.llama_token * len(part))(*part)  # a batch points to its ids and does not own them
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(held, len(part))):
            sys.exit("llama.cpp cannot decode")
    row = llama_cpp.llama_get_logits_ith(context, -1)
    return int(np.ctypeslib.as_array(row, (vocab,)).argmax())


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
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    begun = time.perf_counter()
    llama_cpp.llama_backend_init()
    model = load(path)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    context = start(model, len(ids) + new, threads)
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
