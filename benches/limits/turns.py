"""Recipes of one store, in memory in one process, that decode in turns: time, bytes, share of bandwidth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from m2cache_rs import Model
from m2cache_rs._core import MemoryProbe
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.decoder import Batch, Ids, Kind

from limits.tell import tell

WARM = 4
"""Tokens before the first round."""


@dataclass
class Turns:
    """Rounds of {"bandwidth": bytes a second, NAME: seconds of each token} of recipes by name, the bytes that
    a token of each touches, and the model's `stats()` when all was over."""

    rounds: list[dict[str, Any]]
    bytes: dict[str, float]
    stats: dict[str, dict[str, Any]]

    def seconds(self) -> dict[str, float]:
        """Medians over all tokens."""
        return {
            which: statistics.median(s for one in self.rounds for s in one[which]) for which in self.bytes
        }

    def shares(self) -> dict[str, float]:
        """Bytes a second over the bandwidth of the same round, medians of the rounds."""
        return {
            which: statistics.median(
                size / statistics.median(one[which]) / one["bandwidth"] for one in self.rounds
            )
            for which, size in self.bytes.items()
        }

    def ratios(self, slow: str, fast: str) -> list[float]:
        """How many times as fast the second is as the first, by rounds."""
        return [statistics.median(one[slow]) / statistics.median(one[fast]) for one in self.rounds]


class Text:
    """A model's text in the making: these ids, one a token."""

    def __init__(self, model: Model, sequence: int, ids: Ids) -> None:
        self.model, self.sequence, self.length, self._ids = model, sequence, 0, ids

    def decode(self) -> float:
        """Seconds of one decoded token, without those that made a trace's ranking: no selector has them."""
        ids = self._ids[self.length : self.length + 1]
        batch = Batch.run(ids, self.sequence, self.length, Kind.DECODE)
        generated, begun = self._generating(), time.perf_counter()
        self.model.forward(batch, np.ones(1, bool))
        seconds = time.perf_counter() - begun
        self.length += 1
        return seconds - (self._generating() - generated)

    def _generating(self) -> float:
        return float(self.model.stats()["ffn"]["trace_seconds"])


def in_turns(
    store: Path, recipes: Mapping[str, Recipe], ids: Ids, rounds: int, new: int, probe: MemoryProbe
) -> Turns:
    """Rounds of `new` tokens of each recipe. All read the same ids, which begin again behind the last."""
    length = WARM + rounds * new
    with ExitStack() as stack:
        texts = {}
        for which, recipe in recipes.items():
            tell(f"loading {store.name}: {which}")
            model = stack.enter_context(Model.open(store, recipe=recipe, ctx=length + 64))
            texts[which] = Text(model, stack.enter_context(model.sequence(length)), np.resize(ids, length))
            for _ in range(WARM):
                texts[which].decode()
        found = [_round(texts, new, number, probe) for number in range(rounds)]
        touched = {which: bytes_of_token(text.model) for which, text in texts.items()}
        return Turns(found, touched, {which: text.model.stats() for which, text in texts.items()})


def _round(texts: Mapping[str, Text], new: int, number: int, probe: MemoryProbe) -> dict[str, Any]:
    one: dict[str, Any] = {"bandwidth": probe.bandwidth(all_threads=True, seconds=1.0) * 1e9}
    order = list(texts.items())[:: 1 if number % 2 == 0 else -1]
    one |= {which: [] for which, _ in order}
    for _ in range(new):
        for which, text in order:
            one[which].append(text.decode())
    return one


def bytes_of_token(model: Model) -> float:
    """Bytes of weights that a decode token touched so far, on average."""
    counted, parts = model.stats()["ffn"], model.weights.parts
    ffn = counted["touched_bytes"] / counted["tokens"]
    return float(parts["attn"] + parts["head"] + parts["embed"] + ffn)
