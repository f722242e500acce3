"""A program that keeps its model in memory and answers: a line of stdin asks, a line of stdout answers.

Both programs run this, each in its own Python, so that both are asked and timed by the same lines. Only the
standard library is imported.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

Answer = dict[str, Any]


class Line(Protocol):
    """One text in the making."""

    def prompt(self, ids: Sequence[int]) -> None:
        """Runs ids behind the text; the logits of the last are computed."""

    def decode(self, count: int) -> None:
        """Runs `count` tokens in one call, with the logits of each: what verifying a draft asks for."""

    def cut(self, length: int) -> None:
        """Forgets what lies behind `length` tokens."""


class Program(Protocol):
    """One of the two, with its model in memory."""

    def about(self) -> Answer:
        """What it runs with."""

    def generate(self, ids: Sequence[int], new: int) -> Sequence[float]:
        """Decodes greedily; when each token was there (`time.perf_counter`)."""

    def line(self, positions: int) -> AbstractContextManager[Line]:
        """An empty text with room for so many tokens."""


def answer(program: Program) -> None:
    """Until stdin ends."""
    requests = Requests(program)
    for text in sys.stdin:
        request = json.loads(text)
        found = getattr(requests, request.pop("ask"))(**request)
        print(json.dumps(found), flush=True)


class Requests:
    """What can be asked; all times are seconds."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._lines = ExitStack()
        self._far: Line | None = None

    def about(self) -> Answer:
        """See `Program.about`."""
        return self.program.about()

    def run(self, ids: Sequence[int], new: int) -> Answer:
        """A prompt and what follows it, from nothing."""
        begun = time.perf_counter()
        times = self.program.generate(ids, new)
        return {"tokens": len(times), "first_token": times[0] - begun, "decode": times[-1] - times[0]}

    def together(self, ids: Sequence[int], rows: int, calls: int) -> Answer:
        """Calls that decode one token and calls that decode `rows`, in turns."""
        one, many = [], []
        with self.program.line(len(ids) + (calls + 1) * (rows + 1)) as line:
            line.prompt(ids)
            for _ in range(calls + 1):
                one.append(_seconds(line.decode, 1))
                many.append(_seconds(line.decode, rows))
        return {"one": one[1:], "many": many[1:]}

    def depths(self, near: Sequence[int], far: Sequence[int], calls: int) -> Answer:
        """Calls that decode one token behind each of two texts, in turns.

        The longer text is kept: `fill` is what it took as a prompt, and only the first answer has it.
        """
        found: Answer = {"near": [], "far": []}
        if self._far is None:
            self._far = self._lines.enter_context(self.program.line(len(far) + calls))
            found["fill"] = _seconds(self._far.prompt, far)
        with self.program.line(len(near) + calls) as short:
            short.prompt(near)
            for _ in range(calls):
                found["near"].append(_seconds(short.decode, 1))
                found["far"].append(_seconds(self._far.decode, 1))
        self._far.cut(len(far))
        return found


def _seconds(work: Callable[[Any], None], given: Any) -> float:
    begun = time.perf_counter()
    work(given)
    return time.perf_counter() - begun
