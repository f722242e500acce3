"""Measuring activations with a plain store of the same source, for `convert(calibration=...)`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.convert.equalize import Calibration
from m2cache_rs.errors import UsageError

TOKENS = 2048
"""Tokens measured: an RMS over more moves no factor by a power of two."""

_CHARACTERS = 64 * TOKENS


class Measurable(Protocol):
    """What of a `Model` is needed here; this room imports no runtime."""

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        ...

    def activation_rms(self, ids: Sequence[int]) -> dict[tuple[int, str], NDArray[np.float32]]:
        """RMS behind each norm."""
        ...


def measure(model: Measurable, text: str) -> Calibration:
    """Statistics over the first 2,048 tokens of `text`. Raises `UsageError` for a text without tokens."""
    ids = model.encode(text[:_CHARACTERS])[:TOKENS]
    if len(ids) < 2:
        raise UsageError("the calibration text is empty; a few pages of what the model will read are needed")
    return Calibration(model.activation_rms(ids), len(ids), hashlib.sha256(text.encode()).hexdigest()[:32])


def check_plain(manifest: Mapping[str, Any], source: Mapping[str, Any], store: str) -> None:
    """Refuses statistics from a store that is equalised or made from another source. Raises `UsageError`."""
    if manifest["equalize"] is not None:
        raise UsageError(f"{store} is equalised; statistics need a plain store of the source (or no --from)")
    if manifest["source"] != source:
        raise UsageError(f"{store} was made from another source than the one to convert")
