"""The Rust engine by itself: recipes as it takes them, and a sequence through its layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from m2cache_rs._core import Engine, KvCache, Store, needs
from m2cache_rs.runtime.decoder import Floats, Span

from tests.reference.sparse import Factors
from tests.stores import SMALL

WIDTH, FFN = SMALL["hidden_size"], SMALL["intermediate_size"]
LAYERS: Span = (0, SMALL["num_hidden_layers"])
Json = dict[str, Any]


def recipe(ffn: Json, prompt: int = 8, others: int = 8) -> Json:
    """What the core takes: `ffn` is that of decode tokens, `others` are attention, head and embedding."""
    return {"attn": others, "head": others, "embed": others, "prompt": prompt, "ffn": ffn}


def dense(bits: int, prompt: int | None = None) -> Json:
    """All neurons at `bits`."""
    return recipe({"dense": bits}, prompt or bits)


def sparse(selector: Any, *cuts: Json) -> Json:
    """Those that a selector ranks highest."""
    return recipe({"sparse": {"selector": selector, "cuts": list(cuts)}})


def opened(store: Path, what: Json, act: str = "auto", **options: Any) -> Engine:
    """An engine under a recipe."""
    return Engine(Store(str(store)), json.dumps(what), act, **options)


def factors(layer: int, bits: int = 4, rank: int = 9) -> Factors:
    """A predictor of the small model that predicts nothing."""
    rng = np.random.default_rng(100 + layer)
    down, up = (rng.standard_normal(shape).astype(np.float32) for shape in ((rank, WIDTH), (FFN, rank)))
    return Factors(
        down / 8, up / 3, rng.normal(0, 0.1, FFN).astype(np.float32), rng.random(FFN, np.float32), bits
    )


def predicting(engine: Engine, bits: int = 4) -> Engine:
    """The engine with a predictor in each layer."""
    for layer in range(*LAYERS):
        of = factors(layer, bits)
        engine.set_predictor(layer, of.down, of.up, of.bias, of.weight, bits)
    return engine


def needed(store: Path, what: Json) -> Json:
    """What a store needs under a recipe."""
    manifest = json.loads(Store(str(store)).manifest())
    model = (json.dumps(manifest[name]) for name in ("architecture", "encoding"))
    found: Json = json.loads(needs(*model, json.dumps(what)))
    return found


def noise(count: int, seed: int) -> Floats:
    """Rows of the small model."""
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


class Sequence:
    """One sequence of the small model through all layers of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.kv = engine, KvCache(LAYERS[1], SMALL["num_key_value_heads"], SMALL["head_dim"])
        self.id = self.kv.create(np.ones(SMALL["head_dim"] // 2, np.float32), 1.0)

    def feed(self, x: Floats, start: int, prompt: bool) -> Floats:
        """The rows behind the last layer, for rows from position `start` on."""
        ids, at = np.full(len(x), self.id, np.uint32), np.arange(start, start + len(x), dtype=np.uint32)
        out = x.copy()
        self.engine.follow(LAYERS, False, prompt)
        self.engine.layers(LAYERS, out, self.kv, ids, at, prompt)
        return out
