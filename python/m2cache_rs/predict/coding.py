"""Factors as the core keeps them (src/select/coded.rs): recall is measured of these, not of exact ones."""

from __future__ import annotations

import numpy as np

from m2cache_rs.predict.rank import BITS
from m2cache_rs.recipe.predictors import Factors
from m2cache_rs.runtime.decoder import Floats

_GROUP = 64


def as_kept(factors: Factors) -> Factors:
    """The same, decoded from `BITS`: records of down, and of up by rank."""
    return Factors(decoded(factors.down), decoded(factors.up.T).T, factors.bias, factors.weight)


def decoded(records: Floats) -> Floats:
    """In symmetric groups of 64 along a record (docs/format.md, 6), but for the f16 of their scales."""
    count, width = records.shape
    groups = np.zeros((count, -(-width // _GROUP), _GROUP), np.float32)
    groups.reshape(count, -1)[:, :width] = records
    size = np.abs(groups).max(axis=2, keepdims=True)
    share = np.divide(groups, size, out=np.zeros_like(groups), where=size > 0)
    codes = np.floor((share + 1) * 2 ** (BITS - 1)).clip(0, 2**BITS - 1)
    values = (2 * codes + 1 - 2**BITS) * (size / np.float32(2**BITS))
    return np.asarray(values.reshape(count, -1)[:, :width], np.float32)
