"""What tests of benches/ share: where they are, a shape for them, who compares with llama.cpp."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.reference.tiny import CONFIG

BENCHES = Path(__file__).resolve().parents[1] / "benches"
SHAPE = CONFIG | {
    "hidden_size": 256,
    "head_dim": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "vocab_size": 320,
    "max_position_embeddings": 1024,
}
LLAMA = "M2CACHE_LLAMA_PYTHON"
"""Names a Python that has llama_cpp and gguf, for tests that compare with it."""


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of benches/limits by name."""
    monkeypatch.syspath_prepend(BENCHES)

    def load(name: str) -> ModuleType:
        return import_module(f"limits.{name}")

    return load
