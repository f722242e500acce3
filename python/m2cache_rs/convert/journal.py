"""What an unfinished conversion has done: its plan and the files it finished."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "convert.journal"


@dataclass
class Journal:
    """The plan (source, options) and the finished files, as the writer's JSON entries, in order."""

    plan: dict[str, Any]
    entries: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path) -> Journal | None:
        """The journal of a directory; None where there is none or it cannot be understood."""
        try:
            values = json.loads((directory / NAME).read_text("utf-8"))
            plan, entries = values["plan"], values["entries"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        sound = (
            isinstance(plan, dict) and isinstance(entries, list) and all(isinstance(e, str) for e in entries)
        )
        return cls(plan, entries) if sound else None

    def write(self, directory: Path) -> None:
        """Replaces the journal in one step, so that a kill leaves the old or the new one."""
        text = json.dumps({"plan": self.plan, "entries": self.entries}, indent=1)
        replace_file(directory / NAME, text.encode())


def replace_file(path: Path, content: bytes) -> None:
    """Writes under a temporary name, syncs, renames."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
