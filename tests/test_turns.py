"""Between the chunks of a long prompt others have the model: their tokens, `stats()` and sequences."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime import generation
from m2cache_rs.runtime.cpu import CpuBackend

from tests.places import Places
from tests.stores import SMALL
from tests.test_line import until

CHUNKS, ROWS = 12, 32
LONG = [int(one) for one in np.random.default_rng(8).integers(0, SMALL["vocab_size"], ROWS * CHUNKS - 9)]
SHORT = LONG[:5]
RECIPES = {"same": Recipe.dense(8), "another": Recipe.dense(4)}


class Watch:
    """What the backend is asked for, and by which thread: "pass" or "stats"."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, str]] = []
        for name, what in (("follow", "pass"), ("stats", "stats")):
            patched.setattr(CpuBackend, name, self._watched(getattr(CpuBackend, name), what))

    def _watched(self, real: Any, what: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.asked.append((threading.get_ident(), what))
            return real(*arguments)

        return call


@pytest.mark.parametrize("by", list(RECIPES))
def test_another_generation_goes_on_between_a_prompt_s_chunks(
    small: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk lasts until the other thread stands in line: its next call is then before the next chunk."""
    with Model.open(small, recipe=RECIPES["same"], serves=[RECIPES["another"]]) as model:
        second = model.serving(RECIPES[by]) if by == "another" else model
        alone = [list(model.generate(LONG, 3)), list(second.generate(SHORT, 3))]
        monkeypatch.setattr(generation, "PROMPT_CHUNK", ROWS)
        watch, places, me = Watch(monkeypatch), Places(model._running._line), threading.get_ident()
        found: list[Any] = []

        def short() -> None:
            for token in second.generate(SHORT, 3):
                found.append(token)
                second.stats()

        other = threading.Thread(target=short)

        def progress(share: float) -> None:
            if share and other.ident is None:
                other.start()
            if share:
                until(lambda: not other.is_alive() or places.taken[-1] != me)

        text = list(model.generate(LONG, 3, progress=progress))
        other.join()
    assert [text, found] == alone
    passes = [at for at, asked in enumerate(watch.asked) if asked == (me, "pass")]
    assert len(passes) == CHUNKS + 2
    before_last_chunk = watch.asked[passes[0] : passes[CHUNKS - 1]]
    others = [what for who, what in before_last_chunk if who != me and what == "pass"]
    assert len(others) == 3
    assert any(who != me and what == "stats" for who, what in before_last_chunk)
