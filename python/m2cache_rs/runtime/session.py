"""The public Model: a store opened for running text, from any number of threads."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from m2cache_rs._core import Engine, Store
from m2cache_rs.config import Precision, PrecisionLike, Sampling
from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture
from m2cache_rs.models.rope import inverse_frequencies, positions
from m2cache_rs.runtime import opening
from m2cache_rs.runtime.activations import ActivationRms
from m2cache_rs.runtime.assets import Assets
from m2cache_rs.runtime.cpu import CpuBackend
from m2cache_rs.runtime.decoder import DECODE_BATCH, PROMPT_CHUNK, Batch, Decoder, Floats, Ids, Kind, Observer
from m2cache_rs.runtime.generation import Request, Token, generate, new_tokens, stop_strings, token_ids
from m2cache_rs.runtime.memory import peak_rss
from m2cache_rs.runtime.trace import Recorder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Model", "Token"]

MAX_THREADS = 1024

_LOG = logging.getLogger("m2cache_rs")

_PATHS = {"prompt": (Kind.PROMPT, PROMPT_CHUNK), "decode": (Kind.DECODE, DECODE_BATCH)}


class Model:
    """A store, its weight cache and what is needed to run text through it. Made by `Model.open`.

    Safe from several threads: forward passes run one at a time with the GIL released, generations interleave.
    """

    def __init__(
        self, path: Path, store: Store, precision: Precision, engine: Engine, cache: int, kv: str = "f16"
    ) -> None:
        self.path = path
        manifest = json.loads(store.manifest())
        self.precision = precision
        self.cache = cache
        self.planes = int(manifest["encoding"]["planes"])
        self.architecture = Architecture.from_dict(manifest["architecture"])
        self.assets = Assets(path)
        self._store = store
        self._backend: CpuBackend | None = CpuBackend(engine, self.architecture, kv)
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._tokens = {"prompt": 0, "decode": 0, "draft": 0}
        self._recorder: Recorder | None = None
        if manifest["synthetic"]:
            _LOG.warning("%s is synthetic: random weights, whose text means nothing", path)

    @classmethod
    def open(
        cls,
        path: str | Path,
        cache: int | str | None = None,
        precision: PrecisionLike = None,
        verify: str = "first",
        act: str = "auto",
        threads: int | None = None,
        beside: Model | None = None,
        kv: str = "f16",
        io: str = "auto",
        trace: str | Path | None = None,
    ) -> Model:
        """Opens the store at `path`.

        `cache`: bytes of weight cache, or a text such as "64MiB"; None holds all weights, as far as memory is
        free (a warning is logged when it is not). `precision`: 4, 8, 16, "attn=8,ffn=4" or a mapping; parts
        not named, and None, are read at the highest level the store holds. `verify`: checksums on "first"
        read, "always" (also finds bytes that change on disk while the store is open) or "never". `act`: activations "auto" (int8 below 16 bits) or "f32". `threads`: None
        for one a core. `beside`: a Model that was just opened in this process, whose cache the free memory
        has yet to hold. `kv`: keys and values are kept as "f16" (rounded; beyond 65504 they become infinite
        and end in NumericsError) or "f32". `io`: reads by "uring" (io_uring), "psync" (threads), or "auto",
        which takes the first where the system allows it; what it could not have is logged. `trace`: every
        access to the weights is written to this file, and what it held is lost (docs/trace.md). Only
        `precision`, `act` and `kv` change results; nothing else does, not by a bit.

        Raises UsageError (an argument, or no store there), BudgetError (naming the least that works),
        StoreError and StoreIOError (the store is broken or cannot be read), UnsupportedError.
        """
        _choice("verify", verify, ("first", "always", "never"))
        _choice("act", act, ("auto", "f32"))
        _choice("kv", kv, ("f16", "f32"))
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise UsageError(f"threads is {threads!r}; it must lie in 1..{MAX_THREADS}")
        store = opening.open_store(path)
        manifest = json.loads(store.manifest())
        levels = Precision.parse(precision).levels(manifest["encoding"]["planes"])
        spec, promised = Architecture.from_dict(manifest["architecture"]), beside.cache if beside else 0
        budget = opening.cache_bytes(store, levels, spec, cache, promised)
        engine = Engine(store, levels, act, budget, verify, threads, io)
        for note in json.loads(engine.stats())["notes"]:
            _LOG.warning("%s", note)
        model = cls(Path(path), store, Precision(*levels), engine, budget, kv)
        if trace is not None:
            model._recorder = Recorder(Path(trace), engine, manifest["id"], model.precision)
        return model

    def generate(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        stop: str | Iterable[str] = (),
    ) -> Generator[Token]:
        """Tokens behind `prompt`, as they come; arguments are checked before the first is asked for.

        Settings left at None are the model's generation config's, else greedy (see `Sampling.resolve`);
        temperature 0 is greedy. Ends at an end-of-text id, before a stop string, or after `max_new_tokens`
        (default: 256, or what the context leaves). The same seed gives the same tokens whatever cache,
        threads and other generations do. Rotary frequencies that depend on the length (dynamic, longrope) are
        those of the whole prompt throughout.

        Raises UsageError for arguments, and while running NumericsError, StoreIOError, DamageError; the model
        stays usable after each.
        """
        ids = self._prompt(prompt)
        flags = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
        }
        stops = stop_strings(stop)
        if stops:
            self.tokenizer  # noqa: B018  stop strings need text: a store without tokenizer says so now
        if not 0 <= seed < 2**64:
            raise UsageError(f"seed is {seed}; it must lie in 0..2^64-1")
        count = new_tokens(max_new_tokens, len(ids), self.context)
        return generate(
            self, Request(ids, count, Sampling.resolve(self.assets.generation, **flags), seed, stops)
        )

    def logits(self, ids: Sequence[int] | Ids, path: str = "decode") -> Floats:
        """Logits float32 [len(ids), vocab]: row i predicts the token behind ids[i].

        `path` batches the ids as "decode" (32 rows) or "prompt" (256) tokens; both give the same bits.
        """
        return np.concatenate(list(self.logits_by_batch(ids, path)))

    def logits_by_batch(self, ids: Sequence[int] | Ids, path: str = "decode") -> Iterator[Floats]:
        """The same rows, a batch at a time: memory for one batch of logits instead of all."""
        _choice("path", path, tuple(_PATHS))
        return self._forward_run(self._text(ids), *_PATHS[path])

    def activation_rms(self, ids: Sequence[int] | Ids) -> dict[tuple[int, str], Floats]:
        """Root mean square over the tokens of what the matrices read: (layer, "attn" | "ffn") -> float32
        [hidden].

        That is the output of the norm in front of them; (layers, "final") is what the head reads. Long texts
        run in windows of 512 tokens.
        """
        checked = token_ids(ids, self.architecture.vocab)
        observer = ActivationRms(self.backend.engine, self.architecture)
        window = min(self.architecture.context, 512)
        for start in range(0, len(checked), window):
            part = checked[start : start + window]
            with self.sequence(len(part)) as sequence:
                self.forward(Batch.run(part, sequence, 0, Kind.PROMPT), np.zeros(len(part), bool), observer)
        return observer.rms()

    @property
    def context(self) -> int:
        """Positions a sequence may have: the model's context, or what its rope scaling stretches it to."""
        return positions(self.architecture.rope, self.architecture.context)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the special tokens that the model's tokenizer adds."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not UTF-8 (character {error.start})") from error
        return list(self.tokenizer.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def text_of(self, ids: Sequence[int]) -> str:
        """Like `decode`, and empty where the store has no tokenizer."""
        return self.decode(ids) if self.assets.has_tokenizer else ""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. UnsupportedError where the store has none."""
        return self.assets.tokenizer

    def layout(self) -> dict[str, Any]:
        """The store's files and sections, as the core computes them."""
        return dict(json.loads(self._store.layout()))

    def stats(self) -> dict[str, Any]:
        """Counters since the store was opened; all sizes are bytes, times seconds.

        `hit_bytes` (from the cache), `read_bytes` (read and used), `aligned_bytes` (read beside them, on
        whole pages), `unused_bytes` (read ahead in vain), `reads`, `stalls` and `wait_seconds` (steps that
        waited for their bytes): in all, per entry of `sections` and of `layers` (embedding and head last);
        `compute_seconds`: the rest of the time in layers; `fixed_bytes` and `ring_bytes`: the cache's slots;
        `io`, `notes` (what it could not have), `isa`, `threads`: what ran; `tokens`: rows run per kind;
        `kv`: what keys and values are kept as, `kv_bytes`: what they take now, `kv_capacity`: positions they
        are set aside for (None: as memory allows); `peak_rss_bytes`: of this process.
        """
        with self._lock:
            backend = self.backend
            counted = {
                "tokens": dict(self._tokens),
                "kv": backend.kv_kind,
                "kv_bytes": backend.kv.bytes(),
                "kv_capacity": backend.capacity,
                "peak_rss_bytes": peak_rss(),
            }
            return {**json.loads(backend.engine.stats()), **counted}

    def close(self) -> None:
        """Frees the cache and every sequence; generations that are under way raise UsageError."""
        with self._lock:
            self._backend = None
            if self._recorder is not None:
                self._recorder.close()
                self._recorder = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def sequence(self, length: int) -> Iterator[int]:
        """A new sequence whose rotary frequencies fit `length` positions, freed at the end."""
        spec = self.architecture
        inv_freq, factor = inverse_frequencies(spec.rope, spec.head_dim, spec.context, length)
        with self._lock:
            created = self.backend.create(inv_freq, factor)
        try:
            yield created
        finally:
            with self._lock:
                if self._backend is not None:
                    self._backend.free(created)

    def forward(
        self, batch: Batch, want: NDArray[np.bool_] | None = None, observer: Observer | None = None
    ) -> Floats:
        """Logits of the wanted rows; see `Decoder.forward`. One call runs at a time."""
        with self._lock:
            if self._recorder is not None:
                self._recorder.begin()
            decoder = Decoder(self.backend, self.architecture.layers, observer, self._recorder)
            rows = decoder.forward(batch, want=want)
            for kind in Kind:
                self._tokens[kind.name.lower()] += int(np.count_nonzero(batch.kinds == kind))
            return rows

    @property
    def backend(self) -> CpuBackend:
        """What computes, for callers that build their own batches.

        UsageError when the model is closed, and in a forked child, where the core's threads do not exist.
        """
        if self._backend is None:
            raise UsageError("the model is closed")
        if os.getpid() != self._process:
            raise UsageError("the model was opened before a fork; open it in the process that uses it")
        return self._backend

    def _forward_run(self, ids: Ids, kind: Kind, step: int) -> Generator[Floats]:
        with self.sequence(len(ids)) as sequence:
            for start in range(0, len(ids), step):
                yield self.forward(Batch.run(ids[start : start + step], sequence, start, kind))

    def _prompt(self, prompt: str | Sequence[int]) -> Ids:
        ids = self.encode(prompt) if isinstance(prompt, str) else prompt
        if len(ids) == 0 and self.assets.bos is not None:
            ids = [self.assets.bos]
        if len(ids) == 0:
            raise UsageError(
                "the prompt is empty and the model has no token that begins a text: give a prompt"
            )
        return token_ids(ids, self.architecture.vocab)

    def _text(self, ids: Sequence[int] | Ids) -> Ids:
        checked, context = token_ids(ids, self.architecture.vocab), self.context
        if not 0 < len(checked) <= context:
            raise UsageError(f"{len(checked)} token ids were given; the model's context takes 1 to {context}")
        return checked


def _choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
