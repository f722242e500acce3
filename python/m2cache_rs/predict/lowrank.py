"""Low-rank predictors without training: the SVD of what ranks neurons, in the metric of the inputs.

Deja Vu (arXiv 2310.17157) trains such factors; here they are those of rank r that foretell the gate (with two
outputs gate and up) best, in mean squares over the profile's own inputs. Against the plain SVD that finds 1
to 7 % more of a top set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from m2cache_rs.predict.activation import ACTIVATIONS
from m2cache_rs.recipe.predictors import Factors
from m2cache_rs.runtime.decoder import Floats

_SPARE = 16
"""Directions beyond the rank that the iteration carries."""
_ROUNDS = 4
_RIDGE = 1e-2
"""Share of the mean variance that every direction has, seen or not."""
_WEIGHED = 512
"""Inputs that mean sizes are taken over."""
Tiles = Callable[[], Iterator[Floats]]
"""A matrix [neurons, hidden] in pieces of some rows, from the first again at every call."""


@dataclass(frozen=True)
class FfnMatrices:
    """What of a layer ranks its neurons; `gate` is None for an FFN without."""

    gate: Tiles | None
    up: Tiles
    bias: Floats
    activation: str


def scores(factors: Factors, x: Floats, activation: str) -> Floats:
    """|act(up . (down . x) + bias)| * weight of normed rows x [N, hidden]: float32 [N, neurons].

    With two outputs |act(gate + bias) * up| * weight, as the core computes it (src/select/lowrank.rs).
    """
    found = np.asarray((x @ factors.down.T) @ factors.up.T, np.float32)
    neurons = len(factors.bias)
    score: Floats = np.abs(ACTIVATIONS[activation](found[:, :neurons] + factors.bias)) * factors.weight
    if len(factors.up) > neurons:
        score *= np.abs(found[:, neurons:])
    return score


def svd(matrices: FfnMatrices, x: Floats, rank: int, outputs: int) -> Factors:
    """Factors of a rank for a layer, from normed inputs x [T, hidden] that it met.

    With one head the score of a neuron with a gate is weighted by the mean |up . x|. Memory: a tile, and some
    (outputs * neurons + hidden + T) * (rank + 16) floats.
    """
    gate, up, bias = matrices.gate, matrices.up, matrices.bias
    if gate is not None and outputs == 2:
        return Factors(*factorise(_behind(gate, up), x, rank), bias, np.ones(len(bias), np.float32))
    weight = np.ones(len(bias), np.float32) if gate is None else mean_size(up, x)
    return Factors(*factorise(gate or up, x, rank), bias, weight)


def _behind(first: Tiles, second: Tiles) -> Tiles:
    return lambda: chain(first(), second())


def factorise(matrix: Tiles, x: Floats, rank: int) -> tuple[Floats, Floats]:
    """down [r, hidden] and up [neurons, r], whose product is nearest to the matrix over inputs x [T, hidden].

    Randomised subspace iteration (Halko et al., arXiv 0909.4061): six passes over the matrix. The rank is at
    most the matrix's; with that one the product is the matrix, to rounding.
    """
    hidden = x.shape[1]
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((hidden, min(hidden, rank + _SPARE)), np.float32)
    for _ in range(_ROUNDS):
        basis = _orthogonal(_metric(x, _squared(matrix, basis)))
    left = _orthogonal(np.concatenate([tile @ basis for tile in matrix()]))
    right = _against(left, matrix, hidden)
    # Of the directions that were carried, those of the most variance.
    values, turned = np.linalg.eigh(right @ _metric(x, right.T))
    most = turned[:, np.argsort(values)[::-1][:rank]]
    return np.ascontiguousarray(most.T @ right), np.ascontiguousarray(left @ most)


def mean_size(matrix: Tiles, x: Floats) -> Floats:
    """Mean |matrix . x| over some inputs x [T, hidden], by neuron."""
    some = x[:: -(-len(x) // _WEIGHED)]
    return np.concatenate([np.abs(tile @ some.T).mean(axis=1) for tile in matrix()])


def _metric(x: Floats, directions: Floats) -> Floats:
    """The inputs' second moments, with a ridge, times directions [hidden, n]."""
    ridge = np.float32(_RIDGE * np.mean(np.square(x), dtype=np.float64))
    return np.asarray(x.T @ (x @ directions) / np.float32(len(x)) + ridge * directions, np.float32)


def _orthogonal(columns: Floats) -> Floats:
    return np.linalg.qr(columns.astype(np.float64))[0].astype(np.float32)


def _squared(matrix: Tiles, directions: Floats) -> Floats:
    """matrix^T . matrix . directions."""
    found = np.zeros_like(directions)
    for tile in matrix():
        found += tile.T @ (tile @ directions)
    return found


def _against(left: Floats, matrix: Tiles, hidden: int) -> Floats:
    """left^T . matrix."""
    first, found = 0, np.zeros((left.shape[1], hidden), np.float32)
    for tile in matrix():
        found += left[first : first + len(tile)].T @ tile
        first += len(tile)
    return found
