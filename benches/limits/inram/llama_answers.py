"""Run by the peer's Python: llama.cpp at its best for this machine, asked by `decode.py` (see `answering`).

    python -m limits.inram.llama_answers MODEL.gguf POSITIONS THREADS

The file is read and not mapped, so that weights are repacked into the layout of this processor's kernels;
`about` says how many were.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llama_cpp

from limits.inram.answering import answer
from limits.peer.llama_api import Log, load, start, step, vocabulary

MIB = 1 << 20
BUFFER = re.compile(r"(\S+) model buffer size = +([\d.]+) MiB")
PLAIN = ("CPU", "CPU_Mapped")


class Line:
    """A context of its own, and a batch to fill."""

    def __init__(self, context: Any, vocab: int) -> None:
        self.context, self.vocab, self.length = context, vocab, 0

    def prompt(self, ids: Sequence[int]) -> None:
        """Runs ids behind the text; the logits of the last are computed."""
        step(self.context, ids, self.vocab)
        self.length += len(ids)

    def decode(self, count: int) -> None:
        """Runs `count` tokens in one call, with the logits of each."""
        batch = llama_cpp.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for row in range(count):
            batch.token[row], batch.pos[row], batch.logits[row] = 1, self.length + row, 1
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
        failed = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_get_logits_ith(self.context, -1)  # waits
        llama_cpp.llama_batch_free(batch)
        if failed:
            sys.exit("llama.cpp cannot decode")
        self.length += count

    def cut(self, length: int) -> None:
        """Forgets what lies behind `length` tokens."""
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), 0, length, -1)
        self.length = length


class Llama:
    """The loaded model, and a context that is used again for every run."""

    def __init__(self, path: str, positions: int, threads: int) -> None:
        self.threads, self.log = threads, Log()
        llama_cpp.llama_backend_init()
        self.model = load(path, self.log, mapped=False)
        self.vocab = vocabulary(self.model)
        self.context = start(self.model, self.log, positions, threads)
        self.generate([1] * 4, 2)

    def about(self) -> dict[str, Any]:
        """Its own word on this processor, on attention and on where the weights lie."""
        lines = self.log.lines()
        buffers = {name: float(size) * MIB for name, size in BUFFER.findall("\n".join(lines))}
        return {
            "system": llama_cpp.llama_print_system_info().decode().strip(),
            "attention": sorted({_told(line) for line in lines if "flash" in line.lower()}),
            "keys_and_values": sorted({_told(line) for line in lines if "K (" in line}),
            "buffers": buffers,
            "repacked": sum(size for name, size in buffers.items() if name not in PLAIN),
        }

    def generate(self, ids: Sequence[int], new: int) -> Sequence[float]:
        """Decodes greedily; when each token was there."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)
        token, times = step(self.context, ids, self.vocab), [time.perf_counter()]
        while len(times) < new:
            token = step(self.context, [token], self.vocab)
            times.append(time.perf_counter())
        return times

    @contextmanager
    def line(self, positions: int) -> Iterator[Line]:
        """An empty text with room for so many tokens."""
        context = start(self.model, self.log, positions, self.threads)
        try:
            yield Line(context, self.vocab)
        finally:
            llama_cpp.llama_free(context)


def _told(line: str) -> str:
    """Without the function that told it and its columns."""
    return " ".join(line.partition(":")[2].split())


if __name__ == "__main__":
    answer(Llama(sys.argv[1], *map(int, sys.argv[2:4])))
