"""What a benchmark says while it works: on the standard error, under its own name."""

from __future__ import annotations

import sys
from pathlib import Path


def tell(text: str) -> None:
    """One line."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)
