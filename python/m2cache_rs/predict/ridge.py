"""Ridge regression in closed form (Hoerl and Kennard, 1970): linear guesses with an intercept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """Guesses x @ weight.T + bias: weight [targets, width], bias [targets]."""

    weight: Doubles
    bias: Doubles

    def guess(self, x: Doubles) -> Doubles:
        """Of rows x [N, width]: [N, targets]."""
        return np.asarray(x @ self.weight.T + self.bias)


class Ridge:
    """All lines that are least in sum (guess - y)^2 + penalty * |weight|^2, for rows x [N, width] and
    y [N, targets]; the intercept is not penalised."""

    def __init__(self, x: Doubles, y: Doubles) -> None:
        self._mean, self._level = x.mean(axis=0), y.mean(axis=0)
        self._x, y = x - self._mean, y - self._level
        # The smaller of both products: weight = (X'X + p)^-1 X'y = X'(XX' + p)^-1 y.
        self._wide = x.shape[0] < x.shape[1]
        gram = self._x @ self._x.T if self._wide else self._x.T @ self._x
        values, self._vectors = np.linalg.eigh(gram)
        self._values: Doubles = np.maximum(values, 0)
        self._inside = self._vectors.T @ (y if self._wide else self._x.T @ y)

    @property
    def size(self) -> float:
        """The mean of what a penalty is added to: it makes penalties comparable."""
        return float(np.sum(self._values)) / int(self._x.shape[1])

    def line(self, penalty: float) -> Line:
        """That of a penalty above 0."""
        solved = self._vectors @ (self._inside / (self._values + penalty)[:, None])
        weight = (self._x.T @ solved if self._wide else solved).T
        return Line(weight, self._level - weight @ self._mean)
