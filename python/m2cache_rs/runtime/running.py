"""An open engine that models of several recipes share: whose turn it is, and what each was counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from m2cache_rs.errors import UsageError
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.counters import since, total
from m2cache_rs.runtime.decoder import Backend
from m2cache_rs.runtime.line import Line
from m2cache_rs.runtime.trace import Recorder


class Turn:
    """A recipe that an engine serves in turn with others, `core` being what the engine takes, and what was
    counted meanwhile."""

    def __init__(self, recipe: Recipe, core: str) -> None:
        self.recipe, self.core = recipe, core
        self.counted: Any = None

    def add(self, counted: Any) -> None:
        """So much more was counted."""
        self.counted = counted if self.counted is None else total(counted, self.counted)


class Running:
    """A backend that computes by one recipe at a time, from any threads: whoever has `own` takes it up.

    `give` hands the backend what a recipe ranks and chooses by; it has that of `first`. `files` tells where
    that lies, each file with its digest. `capped`: a budget for the whole process was asked for.
    """

    def __init__(
        self,
        backend: Backend,
        first: Turn,
        give: Callable[[Recipe], None],
        files: Callable[[Recipe], dict[Path, str]],
        recorder: Recorder | None = None,
        capped: bool = False,
    ) -> None:
        self.first, self.recorder, self.capped = first, recorder, capped
        self._backend: Backend | None = backend
        self._give, self._given = give, _needs(first.recipe)
        self._files, self._known = files, files(first.recipe)
        self._turn: Turn | None = first
        self._passing = False
        self._mark: dict[str, Any] | None = None
        self._line = Line()
        self._process = os.getpid()

    def own(self) -> AbstractContextManager[None]:
        """This thread's turn, in the order in which threads ask; not in a forked child, where the thread
        that has it may not exist."""
        self._check_process()
        return self._line.turn()

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the process that opened the engine."""
        return os.getpid() != self._process

    @property
    def backend(self) -> Backend:
        """The backend by whichever recipe. UsageError when it is closed, and in a forked child."""
        self._check_process()
        if self._backend is None:
            raise UsageError("the model is closed")
        return self._backend

    def take_up(self, turn: Turn) -> Backend:
        """The backend, computing by that recipe until somebody takes up another. UsageError, StoreIOError."""
        backend = self.backend
        if self._turn is not turn:
            self._switch(backend, turn)
        self._hand_over(turn.recipe)
        return backend

    @contextmanager
    def passing(self, turn: Turn) -> Iterator[Backend]:
        """The same for a pass through the model, in the middle of which nobody takes up another recipe."""
        outer, backend = self._passing, self.take_up(turn)
        self._passing = True
        try:
            yield backend
        finally:
            self._passing = outer

    def _switch(self, backend: Backend, turn: Turn) -> None:
        """Whatever interrupts it leaves nobody's turn: who comes next takes it up anew."""
        if self._passing:
            raise UsageError(
                "the model is in the middle of a pass by another recipe, whose turn, progress or observer "
                "this was called from: call it when the pass is over"
            )
        counted = backend.stats()
        before, self._turn = self._turn, None
        if before is not None:
            before.add(self._since(counted))
        self._mark = counted
        backend.serve(turn.core)
        self._turn = turn

    def _hand_over(self, recipe: Recipe) -> None:
        """Gives what a recipe needs and is not there: one predictor is at a time."""
        needs = _needs(recipe)
        if needs.items() <= self._given.items():
            return
        self.check_files(recipe)
        for kind in needs:
            self._given.pop(kind, None)
        self._give(recipe)
        self._given |= needs

    def check_files(self, recipe: Recipe) -> None:
        """UsageError where a file that the recipe reads was made anew since the model first read it."""
        for path, digest in self._files(recipe).items():
            if self._known.setdefault(path, digest) != digest:
                raise UsageError(f"{path} was made anew since this model read it: open the model again")

    def free(self, sequence: int) -> None:
        """Forgets a sequence, if it is still there."""
        if self._backend is not None:
            self._backend.free(sequence)

    def counted(self, turn: Turn) -> dict[str, Any]:
        """The backend's counters while it served that recipe."""
        counted = self.backend.stats()
        now = self._since(counted) if self._turn is turn else since(counted, counted)
        return dict(now if turn.counted is None else total(now, turn.counted))

    def close(self) -> None:
        """Frees the backend, which `give` may hold as well."""
        self._backend, self._give = None, _closed
        if self.recorder is not None:
            self.recorder.close()
            self.recorder = None

    def _since(self, counted: Any) -> Any:
        return counted if self._mark is None else since(counted, self._mark)

    def _check_process(self) -> None:
        if self.is_forked:
            raise UsageError("the model was opened before a fork; open it in the process that uses it")


def _closed(recipe: Recipe) -> None:
    raise UsageError("the model is closed")


def _needs(recipe: Recipe) -> dict[str, str]:
    """What a backend has to be given for a recipe: kinds, and which."""
    found = {
        "predictor": recipe.predictor,
        "query_heads": None if recipe.query_heads is None else "the store's",
    }
    return {kind: which for kind, which in found.items() if which is not None}
