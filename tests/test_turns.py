"""Turns of an open model: between the chunks of a long prompt others have theirs, and in one nobody else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model
from m2cache_rs.errors import UsageError
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime import generation
from m2cache_rs.runtime.cpu import CpuBackend
from m2cache_rs.runtime.decoder import FEW_LAYERS

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


def test_a_prompt_that_is_stopped_between_chunks_leaves_nothing(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "PROMPT_CHUNK", ROWS)
    with Model.open(small, recipe=RECIPES["same"]) as model:
        whole: list[float] = []
        alone = list(model.generate(LONG, 2, progress=whole.append))
        assert (whole[0], whole[-1]) == (0, 1)
        assert whole == sorted(set(whole))
        assert len(whole) == 1 + CHUNKS * len(range(0, model.architecture.layers, FEW_LAYERS))

        def stop(share: float) -> None:
            if share > 0.5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(model.generate(LONG, 2, progress=stop))
        assert model.stats()["kv_bytes"] == 0
        assert list(model.generate(LONG, 2)) == alone


def test_nobody_computes_by_another_recipe_during_a_turn(small: Path) -> None:
    """Whoever builds batches has the recipe until the turn is over, whatever another thread asks for."""
    x = np.random.default_rng(3).standard_normal((4, SMALL["hidden_size"])).astype(np.float32)
    with Model.open(small, recipe=RECIPES["same"], serves=[RECIPES["another"]]) as model:
        other = model.serving(RECIPES["another"])
        with model.turn() as backend:
            alone = backend.ffn(0, x)
        with other.turn() as backend:
            assert backend.ffn(0, x).tobytes() != alone.tobytes()
        places, found = Places(model._running._line), list[Any]()
        thread = threading.Thread(target=lambda: found.append(other.logits(SHORT)))
        with model.turn() as backend:
            thread.start()
            until(lambda: places.taken[-1] == thread.ident)
            assert backend.ffn(0, x).tobytes() == alone.tobytes()
            assert not found
            with pytest.raises(UsageError, match="whose turn, progress or observer"), other.turn():
                raise AssertionError("another recipe came between")
            assert backend.ffn(0, x).tobytes() == alone.tobytes()
        thread.join()
        assert found[0].tobytes() == other.logits(SHORT).tobytes()


def test_a_closed_model_has_no_turn(small: Path) -> None:
    model = Model.open(small)
    model.close()
    with pytest.raises(UsageError, match="the model is closed"), model.turn():
        raise AssertionError("a closed model computes")
