"""Where the shared models and texts lie: beside the checkout, or where M2CACHE_SHARED says."""

from __future__ import annotations

import os
from pathlib import Path


def shared_folder() -> Path | None:
    """The folder, or None where it is not there. Raises FileNotFoundError where M2CACHE_SHARED is wrong."""
    named = os.environ.get("M2CACHE_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared"
    if (folder / "data/models").is_dir():
        return folder
    if named:
        raise FileNotFoundError(f"M2CACHE_SHARED is {named}, but there is no data/models in it")
    return None
