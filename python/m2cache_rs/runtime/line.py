"""A lock that threads get in the order in which they came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Line:
    """Threads stand in line for one thing; who has it, or waits for it, may ask for it again.

    A plain lock goes to whoever asks first: a thread that gives it back and takes it again at once, as one
    does between the chunks of a prompt, has it before those that wait have woken.

    Everything is held by `with` on locks of the interpreter, so that Ctrl-C leaves none of them locked. Who
    is interrupted while waiting gives up the place: those behind it may then overtake those before it, but
    `_lock` keeps them out of each other's turns.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._guard = threading.Lock()
        self._last = threading.Lock()
        self._local = threading.local()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for this thread's turn, which lasts as long as the block."""
        if getattr(self._local, "stands", False):  # a callback, or what is freed while the thread waits
            with self._lock:
                yield
            return
        self._local.stands = True
        try:
            with self._place(), self._lock:
                yield
        finally:
            self._local.stands = False

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place in line, whose lock is held until the turn is over: the next one waits for it."""
        place = threading.Lock()
        with place:
            with self._guard:
                before, self._last = self._last, place
            with before:
                pass
            yield
