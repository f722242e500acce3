"""From what the user typed to a local path: a directory, a file, or a model of the hub."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from m2cache_rs.config import user_path
from m2cache_rs.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "merges.txt"]
"""What is fetched of a hub model: no pickles, no other formats."""


def locate(source: str) -> Path:
    """The local path of `source`; a hub id is downloaded into the hub's own cache.

    Raises `CheckpointError` that says what was tried.
    """
    path = user_path(source)
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(source):
        raise CheckpointError(
            f"there is no file or directory {path.absolute()}; a hub id would read OWNER/MODEL"
        )
    return _download(source, path)


def _download(source: str, path: Path) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=PATTERNS))
    except Exception as err:  # the client raises its own, its transport's and the system's errors
        reason = textwrap.shorten(str(err), 400, placeholder=" ...") or type(err).__name__
        raise CheckpointError(
            f"there is no local directory {path.absolute()}, "
            f"and the hub model {source!r} could not be fetched: {reason}"
        ) from err
