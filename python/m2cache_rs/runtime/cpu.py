"""The CPU backend: the Rust engine and its KV blocks behind the decoder's face."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from m2cache_rs._core import Engine, KvCache
from m2cache_rs.models import Architecture
from m2cache_rs.runtime.decoder import Floats, Ids, Span


class CpuBackend:
    """A `Backend` whose arithmetic, weight cache and KV lie in the Rust core; calls release the GIL.

    `kv`: keys and values are kept as "f16" or "f32". `capacity`: positions over all sequences, in blocks of
    64, beyond which attention raises BudgetError; None is bound by memory alone.
    """

    def __init__(
        self, engine: Engine, architecture: Architecture, kv: str = "f16", capacity: int | None = None
    ) -> None:
        self.engine = engine
        self.kv_kind, self.capacity = kv, capacity
        spec = architecture
        self.kv = KvCache(spec.layers, spec.kv_heads, spec.head_dim, kv, capacity)
        self._vocab = architecture.vocab

    def serve(self, recipe: str) -> None:
        """Computes by another recipe (`Recipe.core`) from here on. UsageError: there is no room for it."""
        self.engine.serve(recipe)

    def follow(self, layers: Span, head: bool, prompt: bool = False) -> None:
        """Says what the next calls are: reading ahead follows it."""
        self.engine.follow(layers, head, prompt)

    def abandon(self) -> None:
        """Says that the pass ended half-way: what its tokens touched is not counted."""
        self.engine.abandon()

    def embed(self, tokens: Ids) -> Floats:
        """Embedding rows [N, hidden]."""
        return self.engine.embed(tokens)

    def layers(self, span: Span, x: Floats, sequences: Ids, positions: Ids, prompt: bool = False) -> Floats:
        """x [N, hidden], taken through some layers in place."""
        self.engine.layers(span, x, self.kv, sequences, positions, prompt)
        return x

    def attention(
        self,
        layer: int,
        x: Floats,
        sequences: Ids,
        positions: Ids,
        groups: Span | None = None,
        prompt: bool = False,
    ) -> Floats:
        """What attention adds to x [N, hidden], or partial sums of a range of KV-head groups."""
        return self.engine.attention(layer, x, self.kv, sequences, positions, groups, prompt)

    def ffn(self, layer: int, x: Floats, chunks: Span | None = None, prompt: bool = False) -> Floats:
        """What the FFN adds to x [N, hidden], or partial sums of a range of runs of 256 neurons."""
        return self.engine.ffn(layer, x, chunks, prompt)

    def head(self, x: Floats) -> Floats:
        """Logits [N, vocab]; no rows wanted cost nothing (a prompt's chunks before the last)."""
        return self.engine.head(x) if len(x) else np.empty((0, self._vocab), np.float32)

    def create(self, inv_freq: Floats, attention_factor: float) -> int:
        """A new, empty sequence."""
        return self.kv.create(inv_freq, attention_factor)

    def length(self, sequence: int, layers: Span | None = None) -> int:
        """Positions the sequence holds in all of the layers."""
        return self.kv.length(sequence, layers)

    def truncate(self, sequence: int, length: int, layers: Span | None = None) -> None:
        """Forgets the positions from `length` on in the layers."""
        self.kv.truncate(sequence, length, layers)

    def fork(self, sequence: int) -> int:
        """A new sequence that begins with the same positions; blocks are copied when written."""
        return self.kv.fork(sequence)

    def free(self, sequence: int) -> None:
        """Forgets the sequence."""
        self.kv.free(sequence)

    def norm(self, layer: int, which: str) -> Floats:
        """A norm's gain [hidden]."""
        return self.engine.norm(layer, which)

    def stats(self) -> dict[str, Any]:
        """What the core counted, and what keys and values take."""
        kept = {"kv": self.kv_kind, "kv_bytes": self.kv.bytes(), "kv_capacity": self.capacity}
        return {**json.loads(self.engine.stats()), **kept}
