"""The text that recipes are measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from m2cache_rs.eval.windows import Window
from m2cache_rs.runtime.decoder import Floats
from m2cache_rs.runtime.session import Model

ROWS = 8
"""Rows whose probabilities exist at a time in float64."""


@dataclass(frozen=True)
class Text:
    """Windows of ids, each run from position 0."""

    windows: tuple[Window, ...]

    @property
    def rows(self) -> int:
        """Ids of all windows."""
        return sum(len(window.ids) for window in self.windows)

    @property
    def digest(self) -> str:
        """The SHA-256 of the windows' ids, in hexadecimal."""
        found = hashlib.sha256()
        for window in self.windows:
            found.update(b"%d %d " % (len(window.ids), window.given) + window.ids.tobytes())
        return found.hexdigest()

    @property
    def starts(self) -> list[int]:
        """The first row of each window, and what would be the next one's."""
        lengths = [len(window.ids) for window in self.windows]
        return [sum(lengths[:i]) for i in range(len(lengths) + 1)]


def batches(model: Model, window: Window) -> Iterator[tuple[slice, Floats]]:
    """Rows of a window and their logits."""
    at = 0
    for logits in model.logits_by_batch(window.ids):
        yield slice(at, at + len(logits)), logits
        at += len(logits)
