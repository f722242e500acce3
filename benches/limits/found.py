"""How many of the neurons that are on at 16 bits a choice by what they give at 4 bits finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from m2cache_rs import Model
from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.predict.collect import neurons
from m2cache_rs.predict.ranks import ranks
from m2cache_rs.recipe.cut import rounded
from m2cache_rs.runtime.decoder import Batch, Floats, Ids, Kind
from numpy.typing import NDArray


@dataclass(frozen=True)
class Choice:
    """The share that ranks highest at 4 bits; None: all that 4 bits do not say is off."""

    share: float | None

    def of(self, h: Floats) -> NDArray[np.bool_]:
        """Who is chosen by |h| at 4 bits, [N, neurons]."""
        if self.share is None:
            return h > 0
        chosen: NDArray[np.bool_] = ranks(h) < rounded(self.share, h.shape[1])
        return chosen


@dataclass
class Found:
    """Of all neurons that are on, how many were chosen; of the sum of their |h|, how much."""

    on: int = 0
    hit: int = 0
    sum: float = 0.0
    held: float = 0.0

    def add(self, h: Floats, chosen: NDArray[np.bool_]) -> None:
        """|h| at 16 bits, and who is chosen."""
        on = h > 0
        self.on += int(on.sum())
        self.hit += int((on & chosen).sum())
        self.sum += float(h.sum(dtype=np.float64))
        self.held += float(h[chosen].sum(dtype=np.float64))

    def to_dict(self) -> dict[str, Any]:
        """Shares, for JSON."""
        return {"recall": self.hit / max(1, self.on), "mass": self.held / self.sum if self.sum else 1.0}


def watch(
    model: Model, ids: Ids, choices: Mapping[str, Choice], window: int
) -> tuple[list[float], dict[str, Found]]:
    """Runs ids through a dense model in windows: by layer the share of the neurons that is on, and what is
    found of them."""
    spec = model.architecture
    found, on = {name: Found() for name in choices}, [0] * spec.layers

    def see(layer: int, which: str, x: Floats) -> None:
        if which != "ffn":
            return
        h, coarse = (neurons(model, layer, x, bits) for bits in (16, 4))
        on[layer] += int(np.count_nonzero(h))
        for name, choice in choices.items():
            found[name].add(h, choice.of(coarse))

    for start in range(0, len(ids), window):
        part = ids[start : start + window]
        with model.sequence(len(part)) as sequence:
            for at in range(0, len(part), DECODE_BATCH):
                some = part[at : at + DECODE_BATCH]
                batch = Batch.run(some, sequence, at, Kind.DECODE)
                model.forward(batch, np.zeros(len(some), bool), see)
    return [one / (len(ids) * spec.ffn) for one in on], found
