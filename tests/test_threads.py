"""A Model used from several threads: one forward at a time, generations interleave, nothing mixes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from m2cache_rs import Model
from numpy.typing import NDArray

PROMPTS = ["In the beginning", "The population of", "To be, or not to be", "Alice was"]


def test_generations_in_threads_give_what_they_give_alone(tale: Path) -> None:
    with Model.open(tale, precision=4, cache="1MiB") as model:
        alone = [
            list(model.generate(prompt, 10, temperature=0.8, seed=i)) for i, prompt in enumerate(PROMPTS)
        ]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            jobs = [
                pool.submit(lambda p=prompt, s=i: list(model.generate(p, 10, temperature=0.8, seed=s)))
                for i, prompt in enumerate(PROMPTS)
            ]
            together = [job.result(60) for job in jobs]
        assert together == alone
        assert model.stats()["kv_bytes"] == 0


def test_generations_interleave_in_one_thread(tale: Path) -> None:
    with Model.open(tale, precision=4) as model:
        alone = [list(model.generate(prompt, 6)) for prompt in PROMPTS]
        woven = zip(*(model.generate(prompt, 6) for prompt in PROMPTS), strict=True)
        assert [list(one) for one in zip(*woven, strict=True)] == alone


def test_other_threads_run_while_the_core_computes(tale: Path) -> None:
    """The GIL is released: a counting thread gets on while one call computes."""
    counted, done = [0], threading.Event()

    def count() -> None:
        while not done.is_set():
            counted[0] += 1
            done.wait(0.0005)

    rows = np.ones((512, 256), np.float32)
    thread = threading.Thread(target=count)
    thread.start()
    try:
        with Model.open(tale, threads=1) as model:
            assert any(_rise(model, rows, counted) >= 3 for _ in range(200))
    finally:
        done.set()
        thread.join()


def _rise(model: Model, rows: NDArray[np.float32], counted: list[int]) -> int:
    """How often the other thread counts during one call of the core: with the GIL held, at its edges only."""
    with model.turn() as backend:
        before = counted[0]
        backend.head(rows)
        return counted[0] - before
