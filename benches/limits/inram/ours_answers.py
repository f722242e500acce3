"""Our decoder with every weight in memory, asked by `decode.py` (see `answering`).

python -m limits.inram.ours_answers STORE LEVEL POSITIONS THREADS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from m2cache_rs import Model
from m2cache_rs.errors import M2CacheError
from m2cache_rs.runtime.decoder import Batch, Kind

from limits.inram.answering import answer

WARM = [1] * 4


class Line:
    """A text of the model."""

    def __init__(self, model: Model, sequence: int) -> None:
        self.model, self.sequence, self.length = model, sequence, 0

    def prompt(self, ids: Sequence[int]) -> None:
        """Runs ids behind the text; the logits of the last are computed."""
        self._run(ids, Kind.PROMPT, np.arange(len(ids)) == len(ids) - 1)

    def decode(self, count: int) -> None:
        """Runs `count` tokens in one call, with the logits of each."""
        self._run([1] * count, Kind.DECODE, np.ones(count, bool))

    def cut(self, length: int) -> None:
        """Forgets what lies behind `length` tokens."""
        with self.model.turn() as backend:
            backend.truncate(self.sequence, length)
        self.length = length

    def _run(self, ids: Sequence[int], kind: Kind, want: Any) -> None:
        batch = Batch.run(np.array(ids, np.uint32), self.sequence, self.length, kind)
        self.model.forward(batch, want)
        self.length += len(ids)


class Ours:
    """The open model, its weights loaded by a short run."""

    def __init__(self, store: str, level: int, positions: int, threads: int) -> None:
        self.model = Model.open(store, precision=level, threads=threads, ctx=positions)
        list(self.model.generate(WARM, 2, temperature=0))
        self.read = self.model.stats()["read_bytes"]

    def about(self) -> dict[str, Any]:
        """What computes, and what was read since the first run: rows of the embedding, if all fits."""
        stats = self.model.stats()
        read = stats["read_bytes"] - self.read
        return {name: stats[name] for name in ("isa", "threads", "kv", "tokens")} | {"read_later": read}

    def generate(self, ids: Sequence[int], new: int) -> Sequence[float]:
        """Decodes greedily; when each token was there."""
        return [time.perf_counter() for _ in self.model.generate(ids, new, temperature=0)]

    @contextmanager
    def line(self, positions: int) -> Iterator[Line]:
        """An empty text with room for so many tokens."""
        with self.model.sequence(positions) as sequence:
            yield Line(self.model, sequence)


if __name__ == "__main__":
    try:
        answer(Ours(sys.argv[1], *map(int, sys.argv[2:5])))
    except (M2CacheError, OSError) as error:
        sys.exit(str(error))
