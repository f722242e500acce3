"""Text out of token ids as they come: whole characters only, and stop strings that never show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_BROKEN = "�"
# A UTF-8 character is at most four bytes, so at most three broken ones can still become a character.
_UNFINISHED = 3
# Prompt ids that the first new id is decoded behind.
_CONTEXT = 8
# Ids decoded again for every new token. Only endless invalid bytes or invisible tokens ever reach it.
_LONGEST_WINDOW = 64


class Detokenizer:
    """The text that every further id adds.

    Decoders are not prefix-stable (a first space is stripped, bytes join into characters), so a short window
    of ids is decoded again for each new one, beginning with the end of the prompt. The pieces concatenate to
    the decoding of all ids, less an unfinished character at the end.
    """

    def __init__(self, decode: Decode, context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = _aligned(decode, list(context[-_CONTEXT:]))
        self._shown = _whole(decode(self._ids))
        self._settled = len(self._ids)

    def push(self, token: int) -> str:
        """The text that `token` completes: empty in the middle of a character."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if not text.startswith(self._shown):
            text = self._restart()
        whole = _whole(text)
        piece = whole[len(self._shown) :]
        self._shown += piece
        if (piece and whole == text) or len(self._ids) > _LONGEST_WINDOW:
            self._shrink()
        return piece

    def _restart(self) -> str:
        """A byte broke the character before it (byte fallback): what is shown stays, the id begins afresh."""
        self._ids, self._settled, self._shown = self._ids[-1:], 0, ""
        return self._decode(self._ids)

    def _shrink(self) -> None:
        """Keeps the ids of the last whole piece only, as the context of the next."""
        self._ids = self._ids[self._settled :][-_LONGEST_WINDOW:]
        self._shown = _whole(self._decode(self._ids))
        self._settled = len(self._ids)


def _aligned(decode: Decode, ids: list[int]) -> list[int]:
    """`ids` without those that begin inside a character: byte fallback would break the whole run."""
    while ids and decode(ids).startswith(_BROKEN):
        ids = ids[1:]
    return ids


def _whole(text: str) -> str:
    """`text` without what may be an unfinished character at its end."""
    for _ in range(_UNFINISHED):
        text = text.removesuffix(_BROKEN)
    return text


class StopStrings:
    """Cuts a stream of pieces before the first stop string to be completed, however the pieces fall."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Text that is safe to show: a possible beginning of a stop string is held back."""
        if self.stopped:
            return ""
        self._held += piece
        ends = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return self._release(min(ends)[1])
        return self._release(len(self._held) - self._possible())

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        return self._release(0 if self.stopped else len(self._held))

    def _release(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown

    def _possible(self) -> int:
        """Characters at the end of the held text that begin a stop string."""
        longest = min(len(self._held), max(map(len, self._stops), default=1) - 1)
        ends = (n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._stops))
        return next(ends, 0)
