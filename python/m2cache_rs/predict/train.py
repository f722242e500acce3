"""Low-rank predictors trained on what a text activates (Deja Vu, arXiv 2310.17157); imports torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from m2cache_rs.errors import UnsupportedError
from m2cache_rs.predict.activation import OFF
from m2cache_rs.recipe.predictors import Factors
from m2cache_rs.runtime.decoder import Floats

STEPS = 600
_BATCH = 256
_RATE = 3e-4
# Of the root mean square of |h|: what lies below is as good as off.
_SMALL = {True: 1e-3, False: 0.1}


def require() -> Any:
    """torch, whose threads sleep while they wait for each other, unless OMP_WAIT_POLICY says otherwise.

    UnsupportedError names the extra that brings it.
    """
    # They spin otherwise: on two cores that had other work a predictor took more than 112 s of processor time
    # instead of 30 (benches/NOTES.md, certified and statistical).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError(
            "training a predictor needs torch, which is not installed: pip install 'm2cache-rs[train]', "
            "or leave --trained away: the other predictor needs no training"
        ) from error
    return torch


def train(start: Factors, x: Floats, h: Floats, activation: str, progress: Callable[[int], None]) -> Factors:
    """Factors that rank |h| [T, neurons] of normed inputs x [T, hidden] better than those they start from.

    `progress` is told the steps done, of `STEPS`. The same on one machine with as many threads; no more is
    promised of torch.
    """
    torch = require()
    fit = _Fit(torch, start, activation, float(np.sqrt(np.mean(np.square(h), dtype=np.float64))))
    draws = np.random.default_rng(0)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(fit.optimiser, STEPS)
    for step in range(STEPS):
        some = draws.integers(0, len(x), min(_BATCH, len(x)))
        fit.step(torch.from_numpy(x[some]), torch.from_numpy(h[some]))
        rate.step()
        progress(step + 1)
    return fit.factors()


class _Fit:
    """Parameters on their way. The loss was chosen by recall, of five (benches/NOTES.md, profile)."""

    def __init__(self, torch: Any, start: Factors, activation: str, size: float) -> None:
        self._torch = torch
        self._activation = activation
        self._off = activation in OFF
        self._small = max(size * _SMALL[self._off], 1e-12)
        weight = np.log(np.maximum(start.weight, 1e-6))
        values = (start.down, start.up, start.bias, weight)
        self._parts = [torch.nn.Parameter(torch.from_numpy(np.array(one, np.float32))) for one in values]
        self.optimiser = torch.optim.Adam(self._parts, lr=_RATE)

    def step(self, x: Any, h: Any) -> None:
        """One step down the loss of a batch."""
        down, up, bias, weight = self._parts
        gate, *second = ((x @ down.T) @ up.T).split(len(bias), dim=1)
        score = self._activated(gate + bias).abs() * weight.exp()
        score = score * second[0].abs() if second else score
        loss = (self._by_list if self._off else self._by_logarithm)(score, h)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def _by_logarithm(self, score: Any, h: Any) -> Any:
        """Squared difference of logarithms: every octave of |h| counts alike, and the small ones not."""
        small = self._small
        return ((score + small).log() - (h + small).log()).square().mean()

    def _by_list(self, score: Any, h: Any) -> Any:
        """Cross-entropy of the scores' shares under those of |h|: what is exactly 0 has none."""
        shares = h / h.sum(1, keepdim=True).clamp_min(1e-30)
        logs = (score + self._small).log()
        return -(shares * (logs - logs.logsumexp(1, keepdim=True))).sum(1).mean()

    def _activated(self, z: Any) -> Any:
        functions = self._torch.nn.functional
        simple = {"silu": functions.silu, "relu": functions.relu, "gelu": functions.gelu}
        if self._activation in simple:
            return simple[self._activation](z)
        if self._activation == "gelu_tanh":
            return functions.gelu(z, approximate="tanh")
        if self._activation == "quick_gelu":
            return z * (1.702 * z).sigmoid()
        return functions.relu(z).square() if self._activation == "relu2" else functions.relu6(z)

    def factors(self) -> Factors:
        """What was found."""
        down, up, bias, weight = (one.detach().numpy().copy() for one in self._parts)
        return Factors(down, up, bias, np.exp(weight))
