"""Where weights come from is invisible: caches, rings, engines, directories, bad reads change no bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs import Model
from m2cache_rs._core import Engine
from m2cache_rs.convert import convert
from m2cache_rs.errors import UsageError
from m2cache_rs.runtime import start
from m2cache_rs.runtime.decoder import Batch, Kind
from numpy.typing import NDArray

from tests import stores
from tests.reference.shared import shared_folder
from tests.stores import EXAMPLE

Row = NDArray[np.float32]
TOKENS = 12
TALES = ["tale-silu", "tale-relu"]
DIRECTORIES = {"one directory": 0, "three directories": 2}
FAULTS = ["", "", "slow=1ms", "reverse", "short", "slow=300us,reverse", "short,slow=1ms,reverse"]
READERS = ["auto", "psync", "uring"]


@dataclass(frozen=True)
class Subject:
    """A store to be tried, and the same model in one directory, whose resident logits are the truth."""

    store: Path
    plain: Path


@dataclass(frozen=True)
class Setup:
    """All that must not matter. `share` of what lies between the least cache and all weights."""

    share: float
    lookahead: int | None
    threads: int
    verify: str
    faults: str
    path: str
    count: int
    stop: int | None

    @classmethod
    def any(cls) -> st.SearchStrategy[Setup]:
        return st.builds(
            cls,
            share=st.sampled_from([0.0, 1.0]) | st.floats(0, 1.1),
            lookahead=st.none() | st.integers(0, 2 << 20),
            threads=st.integers(1, 4),
            verify=st.sampled_from(["first", "always", "never"]),
            faults=st.sampled_from(FAULTS),
            path=st.sampled_from(["decode", "prompt"]),
            count=st.integers(1, TOKENS),
            stop=st.none() | st.integers(0, 1),
        )


def ids(vocab: int) -> list[int]:
    return [int(one) for one in np.random.default_rng(8).integers(0, vocab, TOKENS)]


@contextmanager
def opened(store: Path, bits: int, reader: str, setup: Setup) -> Iterator[tuple[Model, int]]:
    """The model as `setup` says, and the size of its cache."""
    everything, least = needs(store, bits)
    size = int(least + setup.share * (everything - least))

    def engine(*arguments: Any, **options: Any) -> Engine:
        return Engine(*arguments, setup.lookahead, **options)

    with patch.dict(os.environ, {"M2CACHE_FAULTS": setup.faults}), patch.object(start, "Engine", engine):
        model = Model.open(
            store, cache=size, precision=bits, verify=setup.verify, threads=setup.threads, io=reader
        )
    with model:
        yield model, size


@cache
def needs(store: Path, bits: int) -> tuple[int, int]:
    weights = stores.needs(store, bits)
    return weights.all, weights.least


@cache
def expected(store: Path, bits: int) -> Row:
    """Logits with everything resident, on one thread, without look-ahead."""
    with opened(store, bits, "psync", Setup(1.0, 0, 1, "first", "", "decode", TOKENS, None)) as (model, _):
        rows = model.logits(ids(model.architecture.vocab))
    assert np.isfinite(rows).all()
    assert rows.std() > 0.1
    return rows


@pytest.fixture(
    scope="module", params=[(tale, where) for tale in TALES for where in DIRECTORIES], ids="-".join
)
def tale_subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name, where = request.param
    source = EXAMPLE
    if name != EXAMPLE.name:
        folder = shared_folder()
        if folder is None:
            pytest.skip(f"{name} is not there (../shared, or the folder M2CACHE_SHARED names)")
        source = folder / "data/models" / name
    return converted(source, tmp_path_factory.mktemp("tiers"), DIRECTORIES[where])


def converted(source: Path, folder: Path, disks: int) -> Subject:
    plain = folder / "plain.m2c"
    convert(source, plain)
    if disks == 0:
        return Subject(plain, plain)
    stripe = [folder / f"disk{number}" for number in range(disks)]
    for disk in stripe:
        disk.mkdir()
    convert(source, folder / "striped.m2c", stripe=stripe, notify=lambda _: None)
    return Subject(folder / "striped.m2c", plain)


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, tale: Path) -> str:
    name: str = request.param
    if name == "uring":
        try:
            Model.open(tale, precision=4, io=name).close()
        except UsageError as denied:
            pytest.skip(f"no io_uring on this machine: {denied}")
    return name


def interrupt(model: Model, layer: int) -> None:
    """Ends a pass in the middle: what was read ahead for its rest is of no use."""

    def stop(at: int, which: str, x: Row) -> None:
        if at == layer and which == "ffn":
            raise KeyboardInterrupt

    with model.sequence(1) as sequence, pytest.raises(KeyboardInterrupt):
        model.forward(Batch.run(np.zeros(1, np.uint32), sequence, 0, Kind.DECODE), observer=stop)


def check(subject: Subject, bits: int, reader: str, setup: Setup) -> None:
    with opened(subject.store, bits, reader, setup) as (model, size):
        asked = ids(model.architecture.vocab)[: setup.count]
        first = model.logits(asked, setup.path)
        if setup.stop is not None:
            interrupt(model, setup.stop)
        again = model.logits(asked, setup.path)
        stats = model.stats()
    truth = expected(subject.plain, bits)[: setup.count].tobytes()
    assert first.tobytes() == truth, "the first pass"
    assert again.tobytes() == truth, "the second pass"
    assert stats["fixed_bytes"] + stats["ring_bytes"] <= size
    assert any("faults" in note for note in stats["notes"]) == bool(setup.faults)


checked = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(checked, max_examples=25)
@given(bits=st.sampled_from([4, 8, 16]), setup=Setup.any())
def test_tales(tale_subject: Subject, reader: str, bits: int, setup: Setup) -> None:
    check(tale_subject, bits, reader, setup)


@settings(checked, max_examples=25)
@given(bits=st.sampled_from([4, 8, 16]), setup=Setup.any())
def test_every_preset_of_sections(small: Path, reader: str, bits: int, setup: Setup) -> None:
    check(Subject(small, small), bits, reader, setup)
