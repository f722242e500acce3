"""llama.cpp as both benchmarks call it, in the peer's Python: a model, a context, tokens in, logits out."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

import llama_cpp
import numpy as np

BATCH = 512
"""Tokens of a prompt that run together: llama.cpp's default."""


DEBUG, CONTINUED = 1, 5
"""Levels of its log."""


class Log:
    """What llama.cpp tells, hundreds of lines a model, kept instead of printed; not what is for debugging."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._level = 0
        self._callback = llama_cpp.llama_log_callback(self._keep)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _keep(self, level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
        self._level = self._level if level == CONTINUED else level
        if self._level != DEBUG:
            self._parts.append(text.decode(errors="replace"))

    def lines(self) -> list[str]:
        """All of them so far."""
        return "".join(self._parts).splitlines()

    def fail(self, what: str) -> None:
        """Ends the program with what was told last."""
        told = [line for line in self.lines() if line.strip()]
        sys.exit(f"llama.cpp cannot {what}: {told[-1].strip() if told else 'it does not say why'}")


def load(path: str, log: Log, mapped: bool) -> ctypes.c_void_p:
    """The model: mapped and used where it lies, or read, and repacked where llama.cpp has a layout for it."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = not mapped
    if hasattr(params, "load_mode"):
        kind = "LLAMA_LOAD_MODE_MMAP" if mapped else "LLAMA_LOAD_MODE_NONE"
        params.load_mode = getattr(llama_cpp, kind)
    else:
        params.use_mmap = mapped
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        log.fail(f"load {path}")
    return model


def start(model: ctypes.c_void_p, log: Log, positions: int, threads: int) -> ctypes.c_void_p:
    """A context of just the positions needed, else as llama.cpp prefers: f16 KV, flash attention or not."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = positions, min(positions, BATCH), min(positions, BATCH)
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        log.fail("make a context")
    return context


def step(context: ctypes.c_void_p, ids: Sequence[int], vocab: int) -> int:
    """Runs the ids; the likeliest next one."""
    for first in range(0, len(ids), BATCH):
        part = ids[first : first + BATCH]
        held = (llama_cpp.llama_token * len(part))(*part)  # a batch points to its ids and does not own them
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(held, len(part))):
            sys.exit("llama.cpp cannot decode")
    row = llama_cpp.llama_get_logits_ith(context, -1)
    return int(np.ctypeslib.as_array(row, (vocab,)).argmax())


def vocabulary(model: ctypes.c_void_p) -> int:
    """Tokens there are."""
    return int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))
