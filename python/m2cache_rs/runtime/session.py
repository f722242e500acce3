"""The public Model: a store opened for running text, from any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.config import DECODE_BATCH, PROMPT_CHUNK, PrecisionLike, Sampling
from m2cache_rs.errors import UsageError, integer
from m2cache_rs.machine.memory import peak_rss
from m2cache_rs.models.rope import inverse_frequencies
from m2cache_rs.plan.budget import Budget
from m2cache_rs.plan.planner import Expectation, expect
from m2cache_rs.plan.shape import tell_idle_threads
from m2cache_rs.plan.wish import Wish
from m2cache_rs.recipe.dial import BandsLike, Chosen, Dial, RecipeLike
from m2cache_rs.runtime.activations import ActivationRms
from m2cache_rs.runtime.cost import ffn_cost, touched
from m2cache_rs.runtime.decoder import Backend, Batch, Decoder, Floats, Ids, Kind, Observer, Progress, pieces
from m2cache_rs.runtime.described import Described
from m2cache_rs.runtime.generation import Request, Token, generate, new_tokens, stop_strings, token_ids
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.options import Options, check_sequences, choice, several
from m2cache_rs.runtime.running import Running, Turn
from m2cache_rs.runtime.sampling import check_finite
from m2cache_rs.runtime.start import Start

__all__ = ["Model", "Token"]

_PATHS = {"prompt": (Kind.PROMPT, PROMPT_CHUNK), "decode": (Kind.DECODE, DECODE_BATCH)}


class Model(Described):
    """A store, its weight cache and what is needed to run text through it. Made by `Model.open`.

    Safe from several threads: passes of up to 32 tokens, or 256 of a prompt, run one at a time with the GIL
    released; in between, whatever waits for the model has its turn in the order of asking.
    """

    def __init__(
        self,
        opened: Opened,
        options: Options,
        chosen: Chosen,
        budget: Budget,
        context: int,
        running: Running,
        turn: Turn,
    ) -> None:
        super().__init__(opened, options, chosen, budget, context)
        self._running, self._turn, self._closed = running, turn, False
        self._passes = 0
        self._tokens = {"prompt": 0, "decode": 0, "draft": 0}

    @classmethod
    def open(
        cls,
        path: str | Path | Opened,
        dram: int | str | None = None,
        cache: int | str | None = None,
        ctx: int | None = None,
        precision: PrecisionLike = None,
        verify: str = "first",
        act: str = "auto",
        threads: int | None = None,
        kv: str = "f16",
        io: str = "auto",
        trace: str | Path | None = None,
        reserve: int = 0,
        logit_rows: int = DECODE_BATCH,
        *,
        select: str | None = None,
        active: float | str | None = None,
        bands: BandsLike | None = None,
        prompt_bits: int | None = None,
        candidates: float | str | None = None,
        predictor: str | None = None,
        cut: str | None = None,
        recipe: RecipeLike | None = None,
        quality: str | None = None,
        query_heads: float | str | None = None,
        serves: Iterable[RecipeLike] = (),
        sequences: int = 1,
    ) -> Model:
        """Opens the store at `path` (or one that was opened already).

        `dram`: a cap on the peak memory of this whole process (of several models opened in one, each is told
        by `reserve` what the others will still take), in bytes or a text such as "4GiB"; `cache`:
        bytes of the weight cache alone, which caps nothing; neither: all weights, as far as memory is free (a
        warning is logged when it is not). `ctx`: positions a sequence may have (None: the model's context, at
        most 4096); keys and values of one such sequence have room in the budget. `precision`: 4, 8, 16,
        "attn=8,ffn=4" or a mapping; parts not named, and None, are read at the highest level the store holds.
        `verify`: checksums on "first" read, "always" (also finds bytes that change on disk while the store is
        open) or "never". `act`: what records below 16 bits are computed in, "auto" (integers: activations of
        8 bits in dots, factors of 16 in sums) or "f32". `threads`: None for one a core. `reserve`: bytes of
        the budget, or of free memory, that the caller will take himself. `logit_rows`: rows of logits
        computed at once, 1 to 32, for which the budget has room; generating wants 1. `kv`: keys and values
        are kept as "f16" (rounded; beyond 65504 they become infinite and end in NumericsError) or "f32".
        `io`: what reads the store, "uring", "psync" (threads) or "auto", which takes the first that the
        system allows; what it could not have is logged. `trace`: every access to the weights is written to
        this file, and what it held is lost (docs/trace.md).

        What decode tokens compute of the FFN (docs/recipes.md): `select` ranks its neurons ("plane",
        "lowrank", "cascade", "oracle") and the share `active` (0.5) is computed, at the FFN's precision or in
        `bands`, shares at 16, 8 and 4 bits such as "25/25/50"; "certified" skips what is proven to be off.
        `prompt_bits`: the FFN's level in prompts, which are always dense (the finest of its bands).
        `candidates`: the share that a cascade's first step leaves (twice `active`). `predictor`: which of the
        store's (`m2cache profile`), where there are several. `cut`: "top", or "threshold" for what reaches
        the scores that such shares reached in `m2cache profile`. Instead of all these: `recipe`, a file or
        what one holds, or `quality`: "exact", which is the default, or a recipe that `m2cache tune` found for
        this store: "high", "balanced", "fast". `query_heads`: the share of the query heads that decode tokens
        have (all); `m2cache profile --query-heads` makes what chooses them. `serves`: recipes, or names that
        `quality` takes, that `serving` will be asked for beside this one; cache and budget have room for what
        all of them read. `sequences`: so many of `ctx` positions have room in the budget at once. Only the
        recipe, `act` and `kv` change results; nothing else does, not by a bit.

        Raises UsageError (an argument, or no store there), BudgetError (naming the least that works),
        StoreError and StoreIOError (the store is broken or cannot be read), UnsupportedError.
        """
        options = Options(verify=verify, act=act, threads=threads, kv=kv, io=io, logit_rows=logit_rows)
        dial = Dial(
            precision=precision,
            select=select,
            active=active,
            bands=bands,
            prompt_bits=prompt_bits,
            candidates=candidates,
            predictor=predictor,
            cut=cut,
            recipe=recipe,
            quality=quality,
            query_heads=query_heads,
        )
        tell_idle_threads(threads)
        wish = Wish.parse(dram, cache, reserve)
        opened = path if isinstance(path, Opened) else Opened(path)
        chosen = opened.choose(dial)
        others = [opened.choose(Dial.named(one)).recipe for one in several(serves)]
        positions, sequences = opened.positions(ctx), check_sequences(sequences)
        recipe = chosen.recipe
        budget = opened.budget(wish, recipe, act, positions, threads, kv, logit_rows, others, sequences)
        start = Start(
            options=options,
            recipe=recipe,
            serves=others,
            positions=positions,
            sequences=sequences,
            capped=dram is not None,
            trace=trace,
        )
        running, budget = start.run(opened, budget)
        return cls(opened, options, chosen, budget, positions, running, running.first)

    def serving(self, recipe: RecipeLike | None = None, *, quality: str | None = None) -> Model:
        """This model by another recipe: the same open store, weight cache, keys and values and budget.

        Both may be used by turns and from any threads, each gives its own recipe's bits, and a sequence of
        one may go on in the other: its keys and values are what they were computed as. `stats` has what was
        counted for each; closing this model ends the others, closing one of them ends that one alone.

        Raises UsageError where the model was not opened with room for the recipe (`serves`), and as `open`
        does of a recipe.
        """
        chosen = self._opened.choose(Dial(recipe=recipe, quality=quality))
        with self._own:
            self._check_open()
            if self._running.capped:
                self._opened.check_scratch(chosen.recipe, self.budget, self.options, self.context)
            self._running.check_files(chosen.recipe)
            turn = Turn(chosen.recipe, chosen.recipe.core(self.architecture))
            self._running.take_up(turn)
        parts = self._opened, self.options, chosen, self.budget, self.context
        return Model(*parts, self._running, turn)

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
        progress: Callable[[float], None] | None = None,
    ) -> Generator[Token]:
        """Tokens behind `prompt`, as they come; arguments are checked before the first is asked for.

        Settings left at None are the model's generation config's, else greedy (see `Sampling.resolve`);
        temperature 0 is greedy. Ends at an end-of-text id, before a stop string, or after `max_new_tokens`
        (default: 256, or what the context leaves). The same seed gives the same tokens whatever cache,
        threads and other generations do. Rotary frequencies that depend on the length (dynamic, longrope) are
        those of the whole prompt throughout. `progress` is told the share of the prompt that has run, from 0
        to 1, behind every layer or few.

        Raises UsageError for arguments, and while running NumericsError, StoreIOError, DamageError; the model
        stays usable after each.
        """
        ids = token_ids(self.assets.prompt(prompt), self.architecture.vocab)
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
        seed = integer("seed", seed)
        if not 0 <= seed < 2**64:
            raise UsageError(f"seed is {seed}; it must lie in 0..2^64-1")
        if progress is not None and not callable(progress):
            raise UsageError(f"progress is {progress!r}; it must be callable")
        count = new_tokens(max_new_tokens, len(ids), self.context, self._opened.room(self.context))
        settings = Sampling.resolve(self.assets.generation, **flags)
        return generate(self, Request(ids, count, settings, seed, stops, progress))

    def logits(self, ids: Sequence[int] | Ids, path: str = "decode") -> Floats:
        """Logits float32 [len(ids), vocab]: row i predicts the token behind ids[i].

        `path` batches the ids as "decode" (32 rows) or "prompt" (256) tokens. Both give the same bits where
        the recipe is dense with one level of the FFN for both; else prompts are dense and decode tokens are
        what it says. Raises NumericsError where a logit is not finite.
        """
        return np.concatenate(list(self.logits_by_batch(ids, path)))

    def logits_by_batch(self, ids: Sequence[int] | Ids, path: str = "decode") -> Iterator[Floats]:
        """The same rows, a batch at a time: memory for one batch of logits instead of all."""
        choice("path", path, tuple(_PATHS))
        return self._forward_run(self._text(ids), *_PATHS[path])

    def activation_rms(self, ids: Sequence[int] | Ids) -> dict[tuple[int, str], Floats]:
        """Root mean square over the tokens of what the matrices read: (layer, "attn" | "ffn") -> float32
        [hidden].

        That is the output of the norm in front of them; (layers, "final") is what the head reads. Long texts
        run in windows of 512 tokens.
        """
        checked = token_ids(ids, self.architecture.vocab)
        with self.turn() as backend:
            observer = ActivationRms(backend, self.architecture)
        window = min(self.context, 512)
        for start in range(0, len(checked), window):
            part = checked[start : start + window]
            with self.sequence(len(part)) as sequence:
                self.forward(Batch.run(part, sequence, 0, Kind.PROMPT), np.zeros(len(part), bool), observer)
        return observer.rms()

    def expect(self, prompt: int, new: int) -> tuple[Expectation | None, str]:
        """What so many prompt and new tokens should take, by the rates that `m2cache doctor` measured.

        None if this disk was never measured; the text says so. A forecast for one sequence, not a bound.
        """
        from m2cache_rs.plan.rates import known_rates

        rates, why = known_rates(self.path, self.options.threads, self.stats()["io"])
        if rates is None:
            return None, why
        subject = self._opened.subject(self.recipe, self.kv)
        return expect(subject, self.budget, rates, prompt, new), ""

    def stats(self) -> dict[str, Any]:
        """Counters since the store was opened; all sizes are bytes, times seconds. Where a model serves
        several recipes (`serving`), of the stretches in which this one was computed by.

        `fixed_bytes` and `ring_bytes`: the cache's slots. What moved: `hit_bytes` found in the cache,
        `read_bytes` read and used, `aligned_bytes` read beside them because reads begin and end on pages,
        `gap_bytes` between them because one read of neighbours is cheaper than two, `unused_bytes` read ahead
        in vain, or not asked for yet, in so many `reads`; `stalls`: times that a step waited, together
        `wait_seconds`. The same per section in `sections` (with `stored_bytes`) and per layer in `layers`
        (the last, None, is embedding and head), there with `compute_seconds`. `io`, `isa`, `threads`: what
        ran; `notes`: what the I/O engine could not have. `tokens`: rows run per kind, in so many `passes`
        through the model; `kv`: what keys and values are kept as, `kv_bytes`: what they take now,
        `kv_capacity`: positions they are set aside for (None: as memory allows); `peak_rss_bytes`: of this
        process. `ffn`: decode `tokens` and what they touched of the FFN, each counted as if it were alone:
        `touched_bytes`, `selector_bytes` of them to rank neurons, `neurons` computed at 16, 8 and 4 bits;
        `trace_seconds` there went into rankings that a bench makes up. `attention`: the same of q, k, v and
        o, and the query `heads` that the tokens had. `touched`: what a mean decode token touched by part,
        None before the first. `recipe`: what is computed, its name, what `m2cache tune` measured of it (None:
        nothing), and from these counters its `cost` (runtime/cost.py), None before the first decode token.
        """
        with self._own:
            self._check_open()
            counted = {
                "tokens": dict(self._tokens),
                "passes": self._passes,
                "peak_rss_bytes": peak_rss(),
            }
            found = {**self._running.counted(self._turn), **counted}
        cost = ffn_cost(found["ffn"], self.architecture)
        return {
            **found,
            "touched": touched(found, self.weights),
            "recipe": {**self.chosen.to_dict(), "cost": cost.to_dict() if cost else None},
        }

    def close(self) -> None:
        """Frees the cache and every sequence; generations that are under way raise UsageError. What `serving`
        gave ends by itself alone."""
        if self._running.is_forked:
            return  # nothing here is a forked child's, and the lock may be held by a thread it does not have
        with self._own:
            self._closed = True
            if self._running.first is self._turn:
                self._running.close()

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
        with self.turn() as backend:
            created = backend.create(inv_freq, factor)
        try:
            yield created
        finally:
            with self._own:
                self._running.free(created)

    def forward(
        self,
        batch: Batch,
        want: NDArray[np.bool_] | None = None,
        observer: Observer | None = None,
        progress: Progress | None = None,
    ) -> Floats:
        """Logits of the wanted rows; see `Decoder.forward`. One call runs at a time."""
        with self.turn() as backend:
            return self._pass(backend, batch, want, observer, progress)

    def _pass(
        self,
        backend: Backend,
        batch: Batch,
        want: NDArray[np.bool_] | None,
        observer: Observer | None,
        progress: Progress | None,
    ) -> Floats:
        recorder = self._running.recorder
        if recorder is not None:
            recorder.begin(self.precision)
        layers, rows = self.architecture.layers, self.options.head_rows
        decoder = Decoder(backend, layers, observer, recorder, rows, progress)
        logits = decoder.forward(batch, want=want)
        self._passes += len(list(pieces(batch)))
        for kind in Kind:
            self._tokens[kind.name.lower()] += int(np.count_nonzero(batch.kinds == kind))
        return logits

    @contextmanager
    def turn(self) -> Iterator[Backend]:
        """What computes, by this model's recipe as long as the block lasts: for callers that build their own
        batches.

        Nothing else runs on the open store meanwhile; other threads wait. Raises UsageError when the model is
        closed, in a forked child, where the core's threads do not exist, and where the same thread is in the
        middle of another recipe's turn.
        """
        with self._own:
            self._check_open()
            with self._running.passing(self._turn) as backend:
                yield backend

    @property
    def _own(self) -> AbstractContextManager[None]:
        """This thread's turn among all that share the engine."""
        return self._running.own()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the model is closed")

    def _forward_run(self, ids: Ids, kind: Kind, step: int) -> Generator[Floats]:
        with self.sequence(len(ids)) as sequence:
            for start in range(0, len(ids), step):
                rows = self.forward(Batch.run(ids[start : start + step], sequence, start, kind))
                check_finite(rows, start + 1)
                yield rows

    def _text(self, ids: Sequence[int] | Ids) -> Ids:
        checked = token_ids(ids, self.architecture.vocab)
        if not 0 < len(checked) <= self.context:
            room = f"{self._opened.room(self.context)} takes 1 to {self.context}"
            raise UsageError(f"{len(checked)} token ids were given; {room}")
        return checked
