"""Texts that commands are given as files."""

from __future__ import annotations

from pathlib import Path

from m2cache_rs.errors import UsageError


def read_text(path: Path, what: str = "text") -> str:
    """What a file holds. UsageError says what of `what` is wrong."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise UsageError(f"the {what} cannot be read from {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the {what} {path} is not UTF-8 (byte {error.start})") from error
