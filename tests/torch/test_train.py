"""Trained predictors: they rank tokens they never saw better than where they start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model
from m2cache_rs.convert import convert
from m2cache_rs.models.spec import ACTIVATIONS as NAMES
from m2cache_rs.predict import run, train
from m2cache_rs.predict.activation import ACTIVATIONS
from m2cache_rs.predict.lowrank import FfnMatrices, scores, svd
from m2cache_rs.predict.recall import Recall
from m2cache_rs.recipe.predictors import Predictor
from m2cache_rs.runtime.opening import Opened

EXAMPLE = Path(__file__).parents[2] / "examples/models/tale-silu"


def recall_of(h: Any, guess: Any) -> Any:
    recall = Recall(h.shape[1])
    recall.add(np.ascontiguousarray(h, np.float32), np.ascontiguousarray(guess, np.float32))
    return np.array(recall.neurons())


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("activation", NAMES)
def test_training_finds_what_the_factors_do_not_tell(
    activation: str, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs with a mean of their own, so that up has a side that it mostly takes."""
    rng = np.random.default_rng(1)
    gate, up = (rng.standard_normal((96, 32)).astype(np.float32) / 4 for _ in range(2))
    x = (rng.standard_normal((1200, 32)) + rng.standard_normal(32)).astype(np.float32)
    h = np.abs(ACTIVATIONS[activation](x @ gate.T) * (x @ up.T)).astype(np.float32)
    matrices = FfnMatrices(lambda: iter([gate]), lambda: iter([up]), np.zeros(96, np.float32), activation)
    start = svd(matrices, x[:1000], 12, outputs)
    told: list[int] = []
    monkeypatch.setattr(train, "STEPS", 200)
    found = train.train(start, x[:1000], h[:1000], activation, told.append)
    assert told == list(range(1, 201))
    before, after = (recall_of(h[1000:], scores(one, x[1000:], activation)) for one in (start, found))
    if outputs == 1:
        assert after[-1] > before[-1]
        assert after.mean() > before.mean()
    else:  # what both matrices tell is what the SVD has: there is little left to learn
        assert after.mean() > before.mean() - 0.005


def test_the_demo_model_has_a_trained_predictor_that_is_no_worse_than_the_svd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "STEPS", 150)
    convert(EXAMPLE, tmp_path / "tale.m2c")
    opened, told = Opened(tmp_path / "tale.m2c"), []
    text = (EXAMPLE / "README.md").read_text() * 4
    with Model.open(opened, kv="f32") as model:
        wish = run.Wish(400, ("svd", "trained"), 32)
        report = run.make(opened, model, text, wish, lambda *one: told.append(one))
    assert told[-1] == ("training", 900, 900)
    gains = np.array(report["trained"]["recall"]) - np.array(report["svd"]["recall"])
    assert gains.mean() > -0.01
    predictor = Predictor(opened.path, "trained", opened.manifest["id"], opened.architecture)
    assert (predictor.kind, set(predictor.ranks)) == ("trained", {32})
    for factors in predictor.layers():
        assert all(np.isfinite(one).all() for one in vars(factors).values())
    assert json.dumps(report)
