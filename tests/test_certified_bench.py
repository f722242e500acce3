"""benches/certified.py: synthetic ReLU layers of a known activity, what 4 bits find, turns of recipes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model
from m2cache_rs.recipe.recipe import Recipe

from tests.benches import BENCHES, SHAPE, limits

__all__ = ["limits"]
ACTIVE = 0.2


@pytest.fixture
def layers(limits: Any, tmp_path: Path) -> Path:
    """A store of two ReLU layers of which a fifth is on."""
    shape = SimpleNamespace(config={**SHAPE, "bos_token_id": 1})
    config = limits("rectified").config_of(shape, 2)
    found: Path = limits("rectified").make_store(config, ACTIVE, tmp_path / "relu")
    return found


def test_as_many_neurons_are_on_as_asked_and_few_escape_four_bits(limits: Any, layers: Path) -> None:
    found = limits("found")
    choices = {"half": found.Choice(0.5), "tenth": found.Choice(0.1), "positive": found.Choice(None)}
    with Model.open(layers, ctx=64, recipe=Recipe.dense(16)) as model:
        ids = np.random.default_rng(2).integers(0, 512, 200).astype(np.uint32)
        on, hits = limits("found").watch(model, ids, choices, 64)
    assert all(abs(one - ACTIVE) < 0.05 for one in on)
    recall = {name: one.to_dict() for name, one in hits.items()}
    assert recall["tenth"]["recall"] <= 0.1 / np.mean(on) + 1e-3
    assert recall["tenth"]["recall"] < recall["positive"]["recall"] <= recall["half"]["recall"] < 1
    assert all(one["mass"] > one["recall"] for one in recall.values())


def test_found_counts_neurons_and_their_sum(limits: Any) -> None:
    one = limits("found").Found()
    h = np.asarray([[4.0, 0.0, 1.0, 0.0]], np.float32)
    one.add(h, np.asarray([[True, True, False, False]]))
    assert one.to_dict() == {"recall": 0.5, "mass": 0.8}
    assert limits("found").Found().to_dict()["mass"] == 1.0
    ties = limits("found").Choice(0.5).of(h)
    assert ties.tolist() == [[True, False, True, False]]


def test_a_token_is_timed_without_what_generated_its_ranking(limits: Any) -> None:
    class Generating:
        seconds = 0.0

        def forward(self, *_: Any) -> None:
            self.seconds += 7.0

        def stats(self) -> Any:
            return {"ffn": {"trace_seconds": self.seconds}}

    text = limits("turns").Text(Generating(), 0, np.zeros(2, np.uint32))
    assert [-7 <= text.decode() < 0 for _ in range(2)] == [True, True]


def test_turns_are_compared_round_by_round(limits: Any) -> None:
    rounds = [
        {"bandwidth": 100.0, "dense": [2.0, 2.2, 9.0], "recipe": [1.0, 1.1, 1.2]},
        {"bandwidth": 50.0, "recipe": [4.0], "dense": [4.0]},
    ]
    turns = limits("turns").Turns(rounds, {"dense": 110.0, "recipe": 55.0}, {})
    assert turns.ratios("dense", "recipe") == [2.0, 1.0]
    assert turns.seconds() == {"dense": 3.1, "recipe": 1.15}
    assert turns.shares() == pytest.approx({"dense": (0.5 + 0.55) / 2, "recipe": (0.5 + 0.275) / 2})


def test_the_bench_runs_and_says_what_is_synthetic(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    config = {**SHAPE, "num_hidden_layers": 1, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (tmp_path / "tiny/config.json").write_text(json.dumps(config))
    command = [
        sys.executable, str(BENCHES / "certified.py"), "--shape", str(tmp_path / "tiny/config.json"),
        "--layers", "1", "--tokens", "256", "--repeats", "1", "--new-tokens", "2", "--threads", "1",
        "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert all(row["synthetic"] and "kl" not in row for row in rows)
    certified = rows[0]
    assert certified["recipe"] == "certified"
    assert 0.1 <= certified["active"] < 0.2
    assert certified["bytes"]["recipe"] < certified["bytes"]["dense"]
    assert done.stdout.count("(synthetic)") == len(rows) == 6
