"""One generation: what is asked for, checked, and the loop that answers it token by token."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.config import PROMPT_CHUNK, Sampling
from m2cache_rs.errors import UsageError, integer
from m2cache_rs.models import Architecture
from m2cache_rs.runtime.assets import Assets
from m2cache_rs.runtime.decoder import Batch, Floats, Ids, Kind, Observer, Progress
from m2cache_rs.runtime.sampling import sample
from m2cache_rs.runtime.text import Detokenizer, StopStrings

DEFAULT_NEW_TOKENS = 256


@dataclass(frozen=True)
class Token:
    """A generated token.

    `text` is what it adds to the text so far: nothing in the middle of a character, or while it may be the
    beginning of a stop string; the last token brings what was held back. An end-of-text id is yielded, as the
    last token.
    """

    id: int
    text: str


@dataclass(frozen=True)
class Request:
    """What one generation was asked for, checked against the model."""

    prompt: Ids
    count: int
    settings: Sampling
    seed: int = 0
    stops: tuple[str, ...] = ()
    progress: Callable[[float], None] | None = None


class Speaker(Protocol):
    """What a generation asks of a model."""

    @property
    def architecture(self) -> Architecture:
        """What the model is."""

    @property
    def assets(self) -> Assets:
        """Its end-of-text ids."""

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids."""

    def sequence(self, length: int) -> AbstractContextManager[int]:
        """A new sequence for a prompt of that many tokens, freed at the end."""

    def forward(
        self,
        batch: Batch,
        want: NDArray[np.bool_] | None = None,
        observer: Observer | None = None,
        progress: Progress | None = None,
    ) -> Floats:
        """Logits of the wanted rows."""


@dataclass
class PromptProgress:
    """Tells the share of a prompt's work that is done, 0 to 1: rows times layers.

    Layers count, so that even the only chunk of a prompt moves while the model is read from a disk.
    """

    work: int
    told: Callable[[float], None]
    done: int = 0

    def __call__(self, more: int) -> None:
        """So much more is done."""
        self.done += more
        self.told(self.done / self.work)


def new_tokens(asked: int | None, prompt: int, context: int, room: str = "the model's context") -> int:
    """Tokens to generate behind a prompt of that many: as asked, else 256 or what the context leaves.

    `room` says in words what sets `context`, for the message of the UsageError.
    """
    if prompt >= context:
        raise UsageError(f"the prompt has {prompt} tokens, {room} holds {context}: shorten the prompt")
    if asked is None:
        return min(DEFAULT_NEW_TOKENS, context - prompt)
    asked = integer("max_new_tokens", asked)
    if asked < 1:
        raise UsageError(f"max_new_tokens is {asked}; it must be at least 1")
    if prompt + asked > context:
        raise UsageError(
            f"a prompt of {prompt} tokens and {asked} new ones exceed {room} of {context}: "
            f"ask for at most {context - prompt} new tokens"
        )
    return asked


def stop_strings(stop: str | Iterable[str]) -> tuple[str, ...]:
    """The stop strings, none of them empty."""
    try:
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
    except TypeError:
        stops = (stop,)  # type: ignore[assignment]
    if not all(isinstance(one, str) for one in stops):
        raise UsageError(f"stop is {stop!r}; a text or several are needed")
    if not all(stops):
        raise UsageError("a stop string is empty; it would stop before the first token")
    return stops


def token_ids(ids: Sequence[int] | Ids, vocab: int) -> Ids:
    """`ids` as uint32 [N]. UsageError where one is not in the vocabulary."""
    try:
        found = np.asarray(ids)
    except (TypeError, ValueError):
        raise UsageError("token ids must be a flat list of integers") from None
    if found.size == 0:
        return np.empty(0, np.uint32)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise UsageError("token ids must be a flat list of integers")
    outside = found[(found < 0) | (found >= vocab)]
    if outside.size:
        raise UsageError(f"token id {outside[0]} is not in the model's vocabulary of {vocab}")
    return found.astype(np.uint32)


def generate(model: Speaker, request: Request) -> Generator[Token]:
    """Yields the tokens of `request`. Closing the generator early frees its sequence."""
    ids = [int(one) for one in request.prompt]
    text, stops = Detokenizer(model.text_of, ids), StopStrings(request.stops)
    with model.sequence(len(ids)) as sequence:
        progress = _progress(model, request)
        batch = _all_but_the_last(model, request.prompt, sequence, progress)
        for left in range(request.count - 1, -1, -1):
            row = model.forward(batch, _last_row(batch), progress=progress)[0]
            progress = None
            chosen = sample(row, request.settings, request.seed, len(ids), ids)
            last = left == 0 or chosen in model.assets.eos
            shown = stops.push("" if chosen in model.assets.eos else text.push(chosen))
            yield Token(chosen, shown + stops.flush() if last else shown)
            if last or stops.stopped:
                return
            batch = Batch.run(np.array([chosen], np.uint32), sequence, len(ids), Kind.DECODE)
            ids.append(chosen)


def _all_but_the_last(model: Speaker, prompt: Ids, sequence: int, progress: PromptProgress | None) -> Batch:
    """Runs a prompt up to its last chunk, which is returned; the model is free for others between chunks."""
    starts = range(0, len(prompt), PROMPT_CHUNK)
    *first, last = (Batch.run(prompt[at : at + PROMPT_CHUNK], sequence, at, Kind.PROMPT) for at in starts)
    for batch in first:
        model.forward(batch, np.zeros(len(batch.positions), bool), progress=progress)
    return last


def _progress(model: Speaker, request: Request) -> PromptProgress | None:
    if request.progress is None:
        return None
    progress = PromptProgress(model.architecture.layers * len(request.prompt), request.progress)
    progress(0)
    return progress


def _last_row(batch: Batch) -> NDArray[np.bool_]:
    want = np.zeros(len(batch.positions), bool)
    want[-1] = True
    return want
