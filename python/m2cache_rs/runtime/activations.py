"""Activation statistics for calibrated equalisation: how large each channel is that a matrix reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.models import Architecture
from m2cache_rs.runtime.decoder import Backend, Floats


class ActivationRms:
    """An observer of the decoder that keeps the mean square of every channel behind each norm."""

    def __init__(self, backend: Backend, architecture: Architecture) -> None:
        self._backend = backend
        self._eps = np.float32(architecture.norm_eps)
        self._gains: dict[tuple[int, str], Floats] = {}
        self._squares: dict[tuple[int, str], NDArray[np.float64]] = {}
        self._rows: dict[tuple[int, str], int] = {}

    def __call__(self, layer: int, which: str, x: Floats) -> None:
        """Adds the rows x [N, hidden] in front of one norm."""
        key = (layer, which)
        if key not in self._gains:
            self._gains[key] = self._backend.norm(layer, which)
        inverse = 1 / np.sqrt(np.mean(np.square(x), axis=1, keepdims=True, dtype=np.float64) + self._eps)
        squares = np.sum(np.square(x * inverse * self._gains[key], dtype=np.float64), axis=0)
        self._squares[key] = self._squares.get(key, 0.0) + squares
        self._rows[key] = self._rows.get(key, 0) + len(x)

    def rms(self) -> dict[tuple[int, str], Floats]:
        """(layer, which) -> float32 [hidden], in the order of the layers."""
        return {
            key: np.sqrt(total / self._rows[key]).astype(np.float32) for key, total in self._squares.items()
        }
