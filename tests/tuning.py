"""What tests of `m2cache tune` share: a text, few choices, a store of their own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from m2cache_rs.recipe.predictors import path_of
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.tune import run
from m2cache_rs.tune.layers import UNIFORM, of_active
from safetensors.numpy import save_file

TEXT = "In the beginning God created the heaven and the earth. And the earth was without form.\n" * 8


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of choices a layer instead of thirty: the rest is for quality."""
    chosen = [*UNIFORM.values(), (0.0, 0.25, 0.75), of_active(0.5, (0.0, 0.5, 0.5))]
    monkeypatch.setattr(run, "options", lambda planes: chosen)


@pytest.fixture
def store(tale: Path, tmp_path: Path) -> Path:
    """A copy whose profiles are this test's own."""
    copy = tmp_path / "tale.m2c"
    shutil.copytree(tale, copy, copy_function=os.link)
    return copy


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text(TEXT)
    return path


def give_predictors(store: Path, *names: str) -> None:
    """Of rank 4, which predict nothing."""
    opened, rng = Opened(store), np.random.default_rng(0)
    spec = opened.architecture
    shapes = {"down": (4, spec.hidden), "up": (spec.ffn, 4), "bias": (spec.ffn,), "weight": (spec.ffn,)}
    found = {
        f"layer.{layer}.{part}": rng.random(shape, np.float32)
        for layer in range(spec.layers)
        for part, shape in shapes.items()
    }
    (store / "profiles").mkdir()
    for name in names:
        about = {"store": opened.manifest["id"], "kind": "svd", "bits": "8"}
        save_file(found, path_of(store, name), about)
