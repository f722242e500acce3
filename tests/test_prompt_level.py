"""A prompt's FFN at one level, that of other tokens at another: each has the bits of a dense model of its level."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from m2cache_rs._core import Engine, KvCache, Store, needs
from m2cache_rs.runtime.decoder import Floats, Span
from m2cache_rs.runtime.recipe import Dense, Recipe

from tests.stores import SMALL

LAYERS: Span = (0, SMALL["num_hidden_layers"])
ROWS = 5
PAIRS = list(permutations((4, 8, 16), 2))


def recipe(prompt: int, decode: int) -> str:
    return json.dumps(Recipe(8, 8, 8, prompt, Dense(decode)).to_dict())


def rows(seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((ROWS, SMALL["hidden_size"])).astype(np.float32)


class Sequence:
    """One sequence through all layers of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.kv = engine, KvCache(LAYERS[1], SMALL["num_key_value_heads"], SMALL["head_dim"])
        self.id = self.kv.create(np.ones(SMALL["head_dim"] // 2, np.float32), 1.0)

    def feed(self, start: int, prompt: bool) -> Floats:
        x = rows(start)
        ids, at = np.full(ROWS, self.id, np.uint32), np.arange(start, start + ROWS, dtype=np.uint32)
        self.engine.follow(LAYERS, False, prompt)
        self.engine.layers(LAYERS, x, self.kv, ids, at, prompt)
        return x


@pytest.mark.parametrize(("prompt", "decode"), PAIRS)
def test_tokens_of_each_kind_have_the_bits_of_their_level(small: Path, prompt: int, decode: int) -> None:
    store = Store(str(small))
    manifest = json.loads(store.manifest())
    mixed = recipe(prompt, decode)
    need = json.loads(needs(*(json.dumps(manifest[name]) for name in ("architecture", "encoding")), mixed))
    uniform = {bits: Engine(store, recipe(bits, bits)) for bits in (prompt, decode)}
    for cache in (need["least"], (need["least"] + need["all"]) // 2, need["all"]):
        engine = Engine(store, mixed, cache=cache)
        found = Sequence(engine)
        first, second = Sequence(uniform[prompt]), Sequence(uniform[decode])
        assert found.feed(0, True).tobytes() == first.feed(0, True).tobytes()
        for layer in range(*LAYERS):
            x = rows(layer)
            for bits, is_prompt in ((prompt, True), (decode, False)):
                for chunks in (None, (1, 2)):
                    expected = uniform[bits].ffn(layer, x, chunks)
                    np.testing.assert_array_equal(engine.ffn(layer, x, chunks, is_prompt), expected)
        other = Sequence(engine)
        assert other.feed(0, False).tobytes() == second.feed(0, False).tobytes()
        assert found.feed(ROWS, True).tobytes() == first.feed(ROWS, True).tobytes()


def test_a_token_touches_what_its_own_level_reads(small: Path) -> None:
    manifest = json.loads(Store(str(small)).manifest())
    model = [json.dumps(manifest[name]) for name in ("architecture", "encoding")]
    for prompt, decode in PAIRS:
        mixed, uniform = (
            json.loads(needs(*model, recipe(*of))) for of in ((prompt, decode), (decode, decode))
        )
        assert mixed["parts"] == uniform["parts"]
        assert mixed["all"] == json.loads(needs(*model, recipe(*[max(prompt, decode)] * 2)))["all"]
