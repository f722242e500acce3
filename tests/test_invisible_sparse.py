"""Which records of a sparse layer are read, whence, how and when is invisible: no bit changes."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from m2cache_rs._core import Engine
from m2cache_rs.errors import StoreIOError
from m2cache_rs.runtime.decoder import Floats

from tests.engines import LAYERS, Json, Sequence, needed, noise, opened, sparse

FAULTS = "M2CACHE_FAULTS"
CUTS = [{"top": [6, 5, 9]}, {"top": [0, 70, 30]}, {"top": [0, 0, 12]}, {"top": [150, 0, 1]}]
DELAYS = ["", "slow=1ms", "reverse", "short", "short,slow=300us,reverse"]
IS_RECORDS = r"layer-\d{5}\.safetensors.*\(wanted were section [a-z.+]+, record \d+( to \d+)?\)$"

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def decoded(engine: Engine) -> Floats:
    """A prompt's tokens, which are dense, and decoded ones; one by one and together."""
    sequence, x = Sequence(engine), noise(14, 8)
    edges = [(0, 6, True), (6, 7, False), (7, 8, False), (8, 14, False)]
    return np.concatenate([sequence.feed(x[a:b], a, prompt) for a, b, prompt in edges])


@cache
def truth(store: Path, selector: str, index: int) -> bytes:
    """With everything resident."""
    return decoded(opened(store, sparse(selector, CUTS[index]), threads=1, io="psync")).tobytes()


def room(store: Path, recipe: Json, share: float) -> int:
    need = needed(store, recipe)
    return int(need["least"] + share * (need["all"] - need["least"]))


@many
@given(
    selector=st.sampled_from(["plane", "oracle"]), index=st.integers(0, len(CUTS) - 1),
    share=st.sampled_from([0.0, 1.0]) | st.floats(0, 1.1), request_=st.none() | st.integers(0, 40_000),
    lookahead=st.none() | st.integers(0, 1 << 20), io=st.sampled_from(["auto", "psync"]),
    verify=st.sampled_from(["first", "always", "never"]), delays=st.sampled_from(DELAYS),
)  # fmt: skip
def test_what_is_read_and_when_changes_no_bit(
    small: Path, selector: str, index: int, share: float, request_: int | None, lookahead: int | None,
    io: str, verify: str, delays: str,
) -> None:  # fmt: skip
    recipe = sparse(selector, CUTS[index])
    size = room(small, recipe, share)
    with patch.dict(os.environ, {FAULTS: delays}):
        engine = opened(
            small, recipe, cache=size, request=request_, lookahead=lookahead, io=io, verify=verify
        )
    for _ in range(2):
        assert decoded(engine).tobytes() == truth(small, selector, index)
    stats = json.loads(engine.stats())
    assert stats["fixed_bytes"] + stats["ring_bytes"] <= size


@many
@given(
    share=st.sampled_from([0.0, 0.3]), request_=st.sampled_from([0, 40_000]), nth=st.integers(1, 400),
    io=st.sampled_from(["auto", "psync"]),
)  # fmt: skip
def test_a_failed_read_is_named_and_what_follows_is_right(
    small: Path, share: float, request_: int, nth: int, io: str
) -> None:
    recipe, errors = sparse("plane", CUTS[0]), []
    with patch.dict(os.environ, {FAULTS: f"eio={nth}"}):
        engine = opened(small, recipe, cache=room(small, recipe, share), request=request_, io=io)
    for _ in range(3):
        try:
            assert decoded(engine).tobytes() == truth(small, "plane", 0)
        except StoreIOError as error:
            errors.append(str(error))
    assert len(errors) <= 1
    assert all(re.search(IS_RECORDS, error) for error in errors), errors


def test_only_what_is_wanted_is_read(small: Path) -> None:
    """Two records of a layer far apart: their pages and no more, beside the scan."""
    recipe = sparse("plane", {"top": [0, 0, 2]})
    read = []
    for request in (0, 1 << 20):
        engine = opened(small, recipe, cache=room(small, recipe, 0.0), request=request, lookahead=0)
        engine.follow(LAYERS, False, False)
        engine.scores(0, noise(1, 5))
        before = json.loads(engine.stats())
        engine.ffn(0, noise(1, 5))
        after = json.loads(engine.stats())
        read.append({name: after[name] - before[name] for name in ("read_bytes", "gap_bytes")})
    assert read[0]["read_bytes"] == read[1]["read_bytes"]
    assert read[0]["gap_bytes"] <= min(read[1]["gap_bytes"], 3 * 4096), (
        "what lies between them on their pages"
    )


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_choice_does_not_undo_what_was_read_ahead(small: Path, share: float) -> None:
    """Every decoded token reads what is scheduled once, however often the choice comes between."""
    recipe = sparse("plane", CUTS[0])
    engine = opened(small, recipe, cache=room(small, recipe, share), lookahead=1 << 20)
    sequence, x = Sequence(engine), noise(9, 3)
    sequence.feed(x[:1], 0, False)
    before = json.loads(engine.stats())
    for at in range(1, 9):
        sequence.feed(x[at : at + 1], at, False)
    after = json.loads(engine.stats())
    assert after["unused_bytes"] - before["unused_bytes"] <= needed(small, recipe)["all"], "a round at most"
