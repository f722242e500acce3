"""The one progress bar. Imports rich, so it is imported only where there is a terminal to draw on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from m2cache_rs.config import format_size


class Show(Protocol):
    """Told how much is done; `start` of it was done before, and leaves the rate alone."""

    def __call__(
        self, done: int, /, *, total: int | None = None, start: int = 0, label: str | None = None
    ) -> None:
        """Draws the bar."""
        ...


class _Rate(ProgressColumn):
    """Bytes a second, in the units of everything else."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{format_size(speed)}/s")


@contextmanager
def bar(label: str, total: int | None, unit: str) -> Iterator[Show]:
    """A bar on stderr, gone at its end; amounts are bytes, or counts of another `unit`."""
    in_bytes = (DownloadColumn(binary_units=True), _Rate())
    amount = in_bytes if unit == "bytes" else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amount, TimeRemainingColumn())
    first = label
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:

        def show(
            done: int, /, *, total: int | None = total, start: int = 0, label: str | None = None
        ) -> None:
            if not drawn.task_ids:
                drawn.add_task(label or first, total=total, completed=start)
            drawn.update(drawn.task_ids[0], completed=done, total=total, description=label)

        if total is not None:
            show(0)
        yield show
