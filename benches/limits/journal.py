"""Runs that are done, kept until the whole comparison is: an interrupted one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limits.tell import tell


class Journal:
    """A file of one JSON object a line: what it was, and what came of it."""

    def __init__(self, path: Path, session: str) -> None:
        """`session` says what the runs depend on; those of another session are forgotten."""
        self.path = path
        self.done: dict[str, Any] = {}
        lines = _lines(path)
        if lines[:1] == [session]:
            self.done = {entry["key"]: entry["value"] for entry in lines[1:]}
            tell(f"going on behind {len(self.done)} steps of {path}")
        kept = [session, *({"key": key, "value": value} for key, value in self.done.items())]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def step(self, key: str, work: Callable[[], Any]) -> Any:
        """What `work` returns, or returned when it was run before."""
        if key not in self.done:
            tell(key)
            value = work()
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")
            self.done[key] = value
        return self.done[key]

    def forget(self) -> None:
        """All is done and told."""
        self.path.unlink()


def _lines(path: Path) -> list[Any]:
    """What can be read; a kill may have cut the last line."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
