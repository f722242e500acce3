"""Commands that run a module of `limits` in a Python of choice, ours or the peer's."""

from __future__ import annotations

import os
from pathlib import Path

BENCHES = Path(__file__).resolve().parents[1]


def command(python: Path | str, module: str, *words: object) -> list[str]:
    """`module` by its name in `limits`; what that Python finds besides stays as it was."""
    path = os.pathsep.join(filter(None, (str(BENCHES), os.environ.get("PYTHONPATH"))))
    start = ["env", f"PYTHONPATH={path}", str(python), "-m", f"limits.{module}"]
    return [*start, *(str(word) for word in words)]
