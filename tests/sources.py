"""Tiny model directories for the tests of conversion, and what is looked at afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
from m2cache_rs import _core
from m2cache_rs.models import architecture_of

from tests.reference import checkpoint, tiny

EXAMPLE = Path(__file__).parents[1] / "examples/models/tale-silu"
CONFIG = tiny.CONFIG | {
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "attention_bias": True,
    "mlp_bias": True,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path / "model")


def make(path: Path, dtype: str = "BF16", shards: int = 1, **config: Any) -> Path:
    """A tiny model directory with every kind of bias, and a tokenizer file."""
    config = CONFIG | config
    checkpoint.save(path, config, tiny.weights(architecture_of(config)[1], seed=7), dtype, shards)
    (path / "tokenizer.json").write_text('{"not": "read here"}')
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def is_sound(path: Path) -> bool:
    opened = _core.Store(str(path))
    manifest = json.loads(opened.manifest())
    names = [entry["name"] for entry in manifest["files"] + manifest["assets"]]
    return [message for name in names for message in opened.verify(name, None)] == []


def entries(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a checkpoint's one file, to be changed and written again."""
    found = safetensors.deserialize((path / "model.safetensors").read_bytes())
    return {name: {**entry, "data": bytes(entry["data"])} for name, entry in found}


def add_tensors(path: Path, names: list[str]) -> None:
    extra = {name: {"dtype": "F32", "shape": [1], "data": bytes(4)} for name in names}
    checkpoint.write(path / "model.safetensors", entries(path) | extra)


def rewrite(path: Path, dtypes: dict[str, str]) -> None:
    """Writes the same values in other dtypes."""
    named = {name: checkpoint._to_f32(entry) for name, entry in entries(path).items()}
    coded = {name: checkpoint._entry(values, dtypes[name]) for name, values in named.items()}
    checkpoint.write(path / "model.safetensors", coded)
