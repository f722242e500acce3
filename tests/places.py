"""Watches who stands in line for a model."""

from __future__ import annotations

import threading

from m2cache_rs.runtime.line import Line


class Places:
    """In place of a line's guard: the threads that took a place, in their order."""

    def __init__(self, line: Line) -> None:
        self.taken: list[int] = []
        self._guard = line._guard
        line._guard = self  # type: ignore[assignment]

    def __enter__(self) -> None:
        self._guard.acquire()

    def __exit__(self, *error: object) -> None:
        self.taken.append(threading.get_ident())
        self._guard.release()
