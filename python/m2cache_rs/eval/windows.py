"""A text as the windows of token ids that a model is scored on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from m2cache_rs.errors import UsageError
from m2cache_rs.runtime.decoder import Ids

if TYPE_CHECKING:
    from m2cache_rs.runtime.session import Model

WINDOW = 512
# A text is tokenised in pieces of about this many characters, cut behind a line: tokenising needs ~200 times
# as much.
PIECE = 1 << 18


@dataclass(frozen=True)
class Window:
    """Ids that run through the model from position 0; all but the first `given` are predicted.

    `bytes` is the UTF-8 length of the text that the predicted ids stand for.
    """

    ids: Ids
    given: int
    bytes: int

    @property
    def targets(self) -> Ids:
        """What the rows from `given - 1` on predict."""
        return self.ids[self.given :]


def most_tokens(text: str, limit: int) -> int:
    """Tokens of a text at most, up to `limit`: one for every byte, and one that tokenizers may put first."""
    return min(limit, max(2, len(text.encode()) + 1))


def windows(model: Model, text: str, limit: int | None = None, window: int = WINDOW) -> Iterator[Window]:
    """Windows of min(context, `window`) ids of `text`, of at most `limit` tokens together.

    Each begins with the special tokens that the tokenizer puts before a text; without any, its first token is
    given.
    """
    if limit is not None and limit < 2:
        raise UsageError(f"tokens is {limit}; at least 2 are needed to predict one from another")
    prefix = _prefix(model)
    tokens = islice(_tokens(model, text), None if limit is None else min(limit, sys.maxsize))
    room = min(model.context, window) - len(prefix)
    if room + len(prefix) <= max(1, len(prefix)):
        least = max(1, len(prefix)) + 1
        width = min(model.context, window)
        raise UsageError(f"windows of {width} positions leave nothing to predict; {least} are the least")
    while part := list(islice(tokens, room)):
        ids, sizes = zip(*part, strict=True)
        given = max(1, len(prefix))
        if given < len(prefix) + len(ids):
            yield Window(np.array([*prefix, *ids], np.uint32), given, sum(sizes[given - len(prefix) :]))


def _prefix(model: Model) -> list[int]:
    """What the tokenizer puts before every text."""
    plain = model.tokenizer.encode("a", add_special_tokens=False).ids
    whole = model.tokenizer.encode("a", add_special_tokens=True).ids
    return list(whole[: whole.index(plain[0])])


def _tokens(model: Model, text: str) -> Iterator[tuple[int, int]]:
    """(id, bytes of text since the id before); ids that share a character give its bytes to the first."""
    start = 0
    while start < len(text):
        cut = text.find("\n", start + PIECE) + 1 or len(text)
        piece, start = text[start:cut], cut
        coded, done = model.tokenizer.encode(piece, add_special_tokens=False), 0
        for one, (_, end) in zip(coded.ids, coded.offsets, strict=True):
            yield one, len(piece[done:end].encode())
            done = max(done, end)
