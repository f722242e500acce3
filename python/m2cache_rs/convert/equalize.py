"""Channel equalisation: power-of-two factors moved between a norm's gain and the columns that read it.

A channel with a large activation needs its column coded finely, and a group's step is set by its largest
weight. Dividing gain i by f_i and multiplying column i by f_i makes both sides alike; f_i = sqrt(a_i / w_i)
balances them (the scaling of AWQ, arXiv 2306.00978, section 3.2, with the weights' own size in the place of a
searched exponent). Powers of two only move exponents, so every product, and with it every sum, stays the same
number in f32, as long as nothing leaves f32's normal range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.errors import UsageError

LIMIT = 12
"""Largest exponent: a factor of 4096, beyond any outlier seen, far from the ends of f16 scales."""

_FLOOR = 2.0**-10

READERS = {"attn": ("q", "k", "v"), "ffn": ("gate", "up"), "final": ("head",)}
"""The matrices whose columns read each norm."""


@dataclass(frozen=True)
class Calibration:
    """Statistics of a text: RMS after each norm, float32 [hidden], by (layer, 'attn' | 'ffn' | 'final').

    `tokens` and `digest` say how much text and which; they go into the manifest.
    """

    rms: Mapping[tuple[int, str], NDArray[np.float32]]
    tokens: int
    digest: str

    def of(self, layer: int, norm: str, hidden: int) -> NDArray[np.float64]:
        """The RMS of one norm's channels; 'final' has no layer. Raises `UsageError` where it is missing."""
        found = [
            value
            for (at, kind), value in self.rms.items()
            if kind == norm and (norm == "final" or at == layer)
        ]
        if len(found) != 1 or found[0].shape != (hidden,) or not np.isfinite(found[0]).all():
            raise UsageError(
                f"calibration has no {hidden} finite values for the {norm} norm of layer {layer}"
            )
        return found[0].astype(np.float64)


def column_rms(tiles: Iterable[NDArray[np.float32]], hidden: int) -> NDArray[np.float64]:
    """Root mean square of each column over all rows of the tiles, in f64."""
    total, rows = np.zeros(hidden), 0
    for tile in tiles:
        total += np.einsum("rc,rc->c", tile, tile, dtype=np.float64, casting="same_kind")
        rows += len(tile)
    return np.sqrt(total / max(rows, 1))


def activation_size(gain: NDArray[np.float32], rms: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """How large each channel is after its norm: measured, or |gain| (the norm makes the rest alike).

    A channel that a calibration text never used may be used by another one, so it counts as 2**-10 of the
    median; a channel whose gain is zero is zero on every text.
    """
    size = np.abs(gain).astype(np.float64)
    if rms is None or not (rms > 0).any():
        return size
    floor = _FLOOR * float(np.median(rms[rms > 0]))
    return np.where(size > 0, np.maximum(rms, floor), 0.0)


def factors(activation: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float32]:
    """The power of two for each column: 2**round(log2(sqrt(a / w))), centred, its exponent within +-LIMIT.

    A channel that is always zero gives way to its group (smallest factor); a column of zeros makes the
    activation small, for the group that int8 activations share (largest factor).
    """
    used = (activation > 0) & (weight > 0)
    exponent = np.where(weight > 0, -float(LIMIT), float(LIMIT))
    exponent[(activation == 0) & (weight == 0)] = 0.0
    balance = 0.5 * (np.log2(activation[used]) - np.log2(weight[used]))
    if balance.size:
        exponent[used] = np.clip(np.rint(balance - balance.mean()), -LIMIT, LIMIT)
    result: NDArray[np.float32] = np.ldexp(np.float32(1), exponent.astype(np.int32))
    return result


def describe(equalize: bool, calibration: Calibration | None) -> dict[str, Any] | None:
    """What the manifest says about it; None for a plain store."""
    if calibration is not None:
        return {"by": "activations", "limit": LIMIT, "tokens": calibration.tokens, "text": calibration.digest}
    return {"by": "weights", "limit": LIMIT} if equalize else None
