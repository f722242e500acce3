"""Cuts by threshold from a store's profile: which thresholds, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from m2cache_rs import Model, UsageError
from m2cache_rs.recipe.cut import Above, Shares
from m2cache_rs.recipe.dial import Dial, Home
from m2cache_rs.recipe.neurons import SHARES, LayerProfile, NeuronProfile, Threshold
from m2cache_rs.recipe.recipe import Sparse
from m2cache_rs.recipe.thresholds import above
from m2cache_rs.runtime.opening import Opened

TOKENS = list(range(5, 25))


def profile(id: str, layers: int, neurons: int, scores: list[list[float]]) -> NeuronProfile:
    """One whose thresholds of `plane` are these by layer and share, and of which nothing else is used."""
    five = (0.5,) * 5
    found = []
    for row in scores:
        cuts = {
            "plane": tuple(
                Threshold(score, share, round(share * neurons) + 9)
                for score, share in zip(row, SHARES, strict=True)
            ),
            "oracle": tuple(Threshold(1.0, share, neurons) for share in SHARES),
        }
        frequency = ((1,) * neurons,) * 5
        found.append(LayerProfile(0.5, frequency, five, ((0.5,) * 3,) * 5, 0.5, five, five, five, cuts))
    assert len(found) == layers
    return NeuronProfile(id, "ab12", 100, 16, tuple(found))


def test_thresholds_are_those_where_bands_end() -> None:
    scores = [[0.1, 0.2, 0.3, 0.4, 0.5], [1.1, 1.2, 1.3, 1.4, 1.5]]
    given = profile("id", 2, 300, scores)
    cuts = above(given, "plane", Shares(0.5, (0.2, 0.3, 0.5)), 300)
    assert cuts == (Above((0.5, 0.4, 0.2), 159 / 300), Above((1.5, 1.4, 1.2), 159 / 300))
    assert cuts[0].core(300)["above"]["most"] == 159
    one = above(given, "plane", Shares(0.7, (0, 1, 0)), 300)
    assert one[1] == Above((None, 1.1, None), 219 / 300)
    assert above(given, "oracle", Shares(0.7, (0, 1, 0)), 300)[0].most == 1
    with pytest.raises(
        UsageError, match=r"share of 0.125 .* where a band ends; .* 0.1, 0.25, 0.35, 0.5, 0.7"
    ):
        above(given, "plane", Shares(0.5, (0.25, 0.25, 0.5)), 300)
    with pytest.raises(UsageError, match="goes with select oracle or plane, not with 'lowrank'"):
        above(given, "lowrank", Shares(0.5, (0, 1, 0)), 300)


def test_a_dial_by_threshold(tmp_path: Path) -> None:
    home = Home(tmp_path, "id", 2, 300)
    dial = Dial(select="plane", precision=8, active=0.25, cut="threshold")
    with pytest.raises(UsageError, match="no profile of its neurons; `m2cache profile"):
        dial.choose(3, home)
    with pytest.raises(UsageError, match="needs a store"):
        dial.choose(3, None)
    profile("id", 2, 300, [[0.1, 0.2, 0.3, 0.4, 0.5]] * 2).save(tmp_path)
    ffn = dial.choose(3, home).recipe.ffn
    assert ffn == Sparse("plane", (Above((None, 0.4, None), 84 / 300),) * 2)
    assert Dial(select="plane", cut="top").choose(3, None).recipe.ffn == Sparse(
        "plane", (Shares(0.5, (1.0, 0.0, 0.0)),)
    )
    for wrong, message in (
        ({"cut": "threshold"}, "cut goes with select"),
        ({"select": "plane", "cut": "best"}, "cut is 'best'; it must be one of top, threshold"),
    ):
        with pytest.raises(UsageError, match=message):
            Dial(**wrong)  # type: ignore[arg-type]


def test_a_threshold_lets_as_many_through_as_reach_it(tale: Path, tmp_path: Path) -> None:
    """The most are the profile's; a threshold of 0 is reached by all, one beyond all scores by none."""
    store = tmp_path / "store.m2c"
    shutil.copytree(tale, store)
    opened = Opened(store)
    spec, id = opened.architecture, opened.manifest["id"]
    rows = [[0.0] * 5 if layer % 2 else [1e30] * 5 for layer in range(spec.layers)]
    profile(id, spec.layers, spec.ffn, rows).save(store)
    with Model.open(store, select="plane", precision=8, active=0.5, cut="threshold") as model:
        assert np.isfinite(model.logits(TOKENS)).all()
        counted = model.stats()["ffn"]
    most = round(0.5 * spec.ffn) + 9
    assert counted["neurons"] == [0, len(TOKENS) * (spec.layers // 2) * most, 0]
