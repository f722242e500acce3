"""Ctrl-C while the core waits for a slow disk: it ends the call, not the reads, and the model goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from m2cache_rs import Model, UsageError
from m2cache_rs._core import Engine
from m2cache_rs.runtime.decoder import Batch, Kind

from tests.engines import Json, Sequence, dense, noise, opened, sparse
from tests.stores import needs

FAULTS = "M2CACHE_FAULTS"
IDS = [5, 7, 200, 3]


@contextmanager
def interrupting(after: float) -> Iterator[None]:
    """Sends this process one Ctrl-C, which is over when this is."""
    timer = threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.join()


def calls(engine: Engine) -> dict[str, Callable[[], object]]:
    """Calls that wait for reads: on the caller's thread, and on one of the core's."""
    return {
        "embed": lambda: engine.embed(np.array([3, 1], np.uint32)),
        "decode": lambda: Sequence(engine).feed(noise(2, 1), 0, False),
        "prompt": lambda: Sequence(engine).feed(noise(40, 1), 0, True),
        "head": lambda: engine.head(noise(1, 1)),
        "ffn": lambda: engine.ffn(1, noise(2, 1)),
    }


@pytest.mark.parametrize("name", ["embed", "decode", "prompt", "head", "ffn"])
@pytest.mark.parametrize("what", [dense(8), sparse("plane", {"top": [20, 20, 60]})], ids=["dense", "plane"])
def test_it_arrives_before_a_read_has(
    small: Path, monkeypatch: pytest.MonkeyPatch, what: Json, name: str
) -> None:
    """Reads take ten minutes, longer than a test may."""
    monkeypatch.setenv(FAULTS, "slow=600s")
    engine = opened(small, what)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), interrupting(0.05):
            calls(engine)[name]()
    assert '"reads":0,' in engine.stats()


@pytest.mark.parametrize("io", ["auto", "psync"])
@pytest.mark.parametrize("options", [{"precision": 8}, {"select": "plane", "precision": 8}], ids=str)
def test_what_comes_behind_it_has_the_same_bits(
    small: Path, monkeypatch: pytest.MonkeyPatch, io: str, options: dict[str, object]
) -> None:
    with Model.open(small, **options) as model:  # type: ignore[arg-type]
        truth = model.logits(IDS).tobytes()
    monkeypatch.setenv(FAULTS, "slow=20ms")
    with Model.open(small, io=io, cache=needs(small, 16).least, **options) as model:  # type: ignore[arg-type]
        for after in (0.005, 0.03, 0.06, 0.1):
            with pytest.raises(KeyboardInterrupt), interrupting(after):
                # Seconds, and never long enough.
                [model.logits(IDS) for _ in range(100)]
            assert model.logits(IDS).tobytes() == truth
        assert model.stats()["kv_bytes"] == 0


def test_what_a_handler_raises_arrives_and_what_it_calls_is_refused(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is in the middle of a call, and one that it waited for would never end."""
    monkeypatch.setenv(FAULTS, "slow=600s")
    engine, refused = opened(small, dense(8)), []

    def handler(number: int, frame: FrameType | None) -> None:
        with pytest.raises(UsageError, match="signal handler"):
            engine.stats()
        refused.append(number)
        raise TimeoutError

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(TimeoutError), interrupting(0.05):
            engine.head(noise(1, 1))
    finally:
        signal.signal(signal.SIGINT, before)
    assert refused == [signal.SIGINT]
    assert '"reads":0,' in engine.stats()


def test_a_handler_that_raises_nothing_ends_nothing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, seen = noise(1, 1), []
    truth = opened(small, dense(8)).head(rows)
    monkeypatch.setenv(FAULTS, "slow=100ms")
    engine = opened(small, dense(8))
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with interrupting(0.02):
            assert engine.head(rows).tobytes() == truth.tobytes()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_a_pass_that_was_broken_off_is_not_counted(small: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with Model.open(small, precision=8, ctx=8) as model, model.sequence(8) as sequence:
        one = Batch.run(np.array([5], np.uint32), sequence, 0, Kind.DECODE)
        model.forward(one)
        before = model.stats()
        two = Batch.run(np.array([7], np.uint32), sequence, 1, Kind.DECODE)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                model.forward(two, progress=stop)
        after = model.stats()
        assert [after[name] for name in ("ffn", "attention", "touched")] == [
            before[name] for name in ("ffn", "attention", "touched")
        ]
        model.forward(two)
        assert model.stats()["ffn"]["tokens"] == 2
