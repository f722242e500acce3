"""The one decoder: it walks the layers of any architecture over any backend (docs/design.md, 5 and 5b)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.config import DECODE_BATCH, PROMPT_CHUNK
from m2cache_rs.errors import UsageError

Floats = NDArray[np.float32]
Ids = NDArray[np.uint32]
Observer = Callable[[int, str, Floats], None]
Progress = Callable[[int], None]
Span = tuple[int, int]

# Layers of a backend's call of up to DECODE_BATCH rows: threads that slept between calls took some 35 us
# to wake. Progress waits for a call; Ctrl-C for what is computed without waiting for a read.
FEW_LAYERS = 4


class Kind(IntEnum):
    """What a token is: a prompt's FFN is dense at the recipe's prompt level, others' is by its ffn. How
    tokens are batched rests on it, too. A DRAFT, which its caller verifies, is computed as a DECODE is."""

    PROMPT = 0
    DECODE = 1
    DRAFT = 2


class Backend(Protocol):
    """What computes. Arrays are C-contiguous, x and results float32 [N, hidden], rows by rising position.

    A branch is a sum of chunks: one per KV-head group in attention, one per 256 neurons in the FFN. Asked for
    a range of them it gives their partial sums [chunks, N, hidden] without bias, for another device to go on
    from: bias + chunk 0 + chunk 1 + ... in this order are the bits of the whole. The rows of a call are all
    of a `prompt`, or none.
    """

    def serve(self, recipe: str) -> None:
        """Computes by another recipe (`Recipe.core`) from here on; sequences go on as they are. UsageError
        where the backend was not opened with room for it."""

    def follow(self, layers: Span, head: bool, prompt: bool = False) -> None:
        """Says what the next calls are (these layers, the head or not): reading ahead follows it."""

    def abandon(self) -> None:
        """Says that the pass which `follow` announced ended half-way."""

    def embed(self, tokens: Ids) -> Floats:
        """Embedding rows of tokens [N]."""

    def layers(self, span: Span, x: Floats, sequences: Ids, positions: Ids, prompt: bool = False) -> Floats:
        """The rows behind these layers, by the same bits as adding both branches of each to x: x may be
        taken for them, and holds nothing of use behind an error."""

    def attention(
        self,
        layer: int,
        x: Floats,
        sequences: Ids,
        positions: Ids,
        groups: Span | None = None,
        prompt: bool = False,
    ) -> Floats:
        """What the attention branch (its norm included) adds to x; appends the rows' keys and values."""

    def ffn(self, layer: int, x: Floats, chunks: Span | None = None, prompt: bool = False) -> Floats:
        """What the FFN branch (its norm included) adds to x."""

    def head(self, x: Floats) -> Floats:
        """Logits [N, vocab] of hidden rows before the final norm."""

    def create(self, inv_freq: Floats, attention_factor: float) -> int:
        """A new, empty sequence with its rotary frequencies [head_dim / 2]; its id."""

    def length(self, sequence: int, layers: Span | None = None) -> int:
        """Positions the sequence holds in all of the layers (None: of the model)."""

    def truncate(self, sequence: int, length: int, layers: Span | None = None) -> None:
        """Forgets positions from `length` on in the layers, also those a failed call left half-written."""

    def fork(self, sequence: int) -> int:
        """A new sequence that begins with the same positions."""

    def free(self, sequence: int) -> None:
        """Forgets the sequence."""

    def norm(self, layer: int, which: str) -> Floats:
        """A norm's gain [hidden]: `attn` or `ffn` of a layer, or `final`."""

    def stats(self) -> dict[str, Any]:
        """What the tiers did since the store was opened (see `Model.stats`)."""


@dataclass(frozen=True)
class Batch:
    """N rows, each with its own position, sequence and kind; `tokens` [N], or `hidden` [N, d] later on."""

    positions: Ids
    sequences: Ids
    kinds: NDArray[np.uint8]
    tokens: Ids | None = None
    hidden: Floats | None = None

    @property
    def prompt(self) -> bool:
        """Whether the rows are a prompt's; those of a piece are of one kind."""
        return bool(self.kinds[0] == Kind.PROMPT) if len(self.kinds) else False

    @classmethod
    def run(cls, tokens: Ids, sequence: int, start: int, kind: Kind) -> Batch:
        """Consecutive tokens of one sequence, the first at position `start`."""
        n = len(tokens)
        positions = np.arange(start, start + n, dtype=np.uint32)
        kinds = np.full(n, kind, np.uint8)
        return cls(positions, np.full(n, sequence, np.uint32), kinds, tokens=np.asarray(tokens, np.uint32))

    def rows(self, part: slice) -> Batch:
        """The rows of `part`."""
        kept = {name: value[part] for name, value in vars(self).items() if value is not None}
        return replace(self, **kept)


@dataclass
class Decoder:
    """Runs batches through `layers` layers of `backend`.

    `observer(layer, which, x)` sees the hidden rows in front of every norm, which being `attn`, `ffn` or
    (layer = `layers`) `final`: calibration listens there; only then are branches asked for one by one.
    `progress` is told the work done, rows times layers, behind every call of some layers. `passed(batch)` is
    called behind every pass with its rows: those of a batch that run together. `logit_rows` bounds the rows
    that the head takes at once (None: all that are wanted).
    """

    backend: Backend
    layers: int
    observer: Observer | None = None
    passed: Callable[[Batch], None] | None = None
    logit_rows: int | None = None
    progress: Progress | None = None

    def forward(
        self, batch: Batch, layers: range | None = None, want: NDArray[np.bool_] | None = None
    ) -> Floats:
        """Logits [wanted, vocab], or hidden rows [wanted, d] when `layers` ends before the last layer.

        `want` is a mask [N]; None wants all. Appends to the batch's sequences; if anything is raised half-way
        (I/O, Ctrl-C), they are as before and the decoder can be used again.
        """
        span = range(self.layers) if layers is None else layers
        stage = (span.start, span.stop)
        before = {int(s): self.backend.length(int(s), stage) for s in np.unique(batch.sequences)}
        mask = np.ones(len(batch.positions), bool) if want is None else want
        try:
            found = [self._pass(batch.rows(rows), span, mask[rows]) for rows in pieces(batch)]
            return found[0] if len(found) == 1 else np.concatenate(found)  # logits are large: no copy of one
        except BaseException:
            self.backend.abandon()
            for sequence, length in before.items():
                self.backend.truncate(sequence, length, stage)
            raise

    def _pass(self, batch: Batch, span: range, want: NDArray[np.bool_]) -> Floats:
        rows = self._piece(batch, span, want)
        if self.passed is not None:
            self.passed(batch)
        return rows

    def _piece(self, batch: Batch, span: range, want: NDArray[np.bool_]) -> Floats:
        head = span.stop == self.layers and bool(want.any())
        self.backend.follow((span.start, span.stop), head, batch.prompt)
        x = self._walk(batch, span, self._enter(batch))
        if span.stop < self.layers:
            return x[want]
        self._observe(self.layers, "final", x)
        return self._logits(x[want])

    def _walk(self, batch: Batch, span: range, x: Floats) -> Floats:
        step = FEW_LAYERS if len(x) <= DECODE_BATCH else 1
        for first in span[::step]:
            part = range(first, min(first + step, span.stop))
            if self.observer is None:
                rows = (batch.sequences, batch.positions, batch.prompt)
                x = self.backend.layers((part.start, part.stop), x, *rows)
            else:
                self._watched(batch, part, x)
            if self.progress is not None:
                self.progress(len(x) * len(part))
        return x

    def _watched(self, batch: Batch, span: range, x: Floats) -> None:
        for layer in span:
            self._observe(layer, "attn", x)
            rows = (batch.sequences, batch.positions)
            x += self.backend.attention(layer, x, *rows, prompt=batch.prompt)
            self._observe(layer, "ffn", x)
            x += self.backend.ffn(layer, x, prompt=batch.prompt)

    def _logits(self, x: Floats) -> Floats:
        step = self.logit_rows or max(1, len(x))
        found = [self.backend.head(x[at : at + step]) for at in range(0, max(1, len(x)), step)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _enter(self, batch: Batch) -> Floats:
        if batch.hidden is not None:
            return batch.hidden.copy()
        if batch.tokens is None:
            raise UsageError("a batch has neither tokens nor hidden rows")
        return self.backend.embed(batch.tokens)

    def _observe(self, layer: int, which: str, x: Floats) -> None:
        if self.observer is not None:
            self.observer(layer, which, x)


def pieces(batch: Batch) -> Iterator[slice]:
    """Rows that run together: a prompt's up to a multiple of PROMPT_CHUNK, others up to DECODE_BATCH."""
    prompt = batch.kinds == Kind.PROMPT
    other = batch.sequences[1:] != batch.sequences[:-1]
    ends = prompt[1:] & (other | (batch.positions[1:] % PROMPT_CHUNK == 0))
    cuts = (np.flatnonzero(ends | (prompt[1:] != prompt[:-1])) + 1).tolist()
    for start, stop in pairwise(sorted({0, *cuts, len(prompt)})):
        step = PROMPT_CHUNK if prompt[start] else DECODE_BATCH
        yield from (slice(at, min(at + step, stop)) for at in range(start, stop, step))
