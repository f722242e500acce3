"""Progress where nobody watches a bar (nohup, CI, a log): a line on stderr now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from m2cache_rs.config import format_size

# What ends sooner says nothing, a day and a half some 200 lines; CI takes ten minutes of silence for a hang.
_SOONEST, _LATEST, _SHARE = 60.0, 480.0, 0.01


class Lines:
    """Told how much is done, as a bar is; tells `note` at most once a minute.

    That is when a hundredth more is done, or after eight minutes.
    """

    def __init__(self, label: str, total: int | None, unit: str, note: Callable[[str], None]) -> None:
        self._label, self._total, self._unit, self._note = label, total, unit, note
        self._begun = self._said = time.monotonic()
        self._first = self._last = self._seen = 0

    def __call__(
        self, done: int, /, *, total: int | None = None, start: int = 0, label: str | None = None
    ) -> None:
        """So much is done; `start` of it was done before. Less than the last time: another task begins."""
        now = time.monotonic()
        if done < self._seen:
            self._begun, self._first, self._last = now, 0, 0
        elif start and not self._seen:
            self._first = self._last = start
        self._seen, self._label = done, label or self._label
        total = self._total if total is None else total
        more = total is not None and done - self._last >= _SHARE * total
        if now - self._said >= (_SOONEST if more else _LATEST):
            self._note(f"{self._label}: {self._words(done, total, now - self._begun)}")
            self._said, self._last = now, done

    def _words(self, done: int, total: int | None, gone: float) -> str:
        if total is None:
            return f"{self._amount(done)} done, {duration(gone)} gone"
        share, new = done / max(total, 1), done - self._first
        left = f", about {duration(gone * (total - done) / new)} left" if new > 0 else ""
        return f"{self._amount(done)} of {self._amount(total)} ({share:.0%}), {duration(gone)} gone{left}"

    def _amount(self, count: int) -> str:
        return format_size(count) if self._unit == "bytes" else str(count)


def duration(seconds: float) -> str:
    """Of minutes and more, for a reader."""
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
