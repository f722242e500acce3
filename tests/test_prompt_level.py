"""A prompt's FFN at one level, other tokens' at another: each has the bits of a dense model of its level."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from tests.engines import LAYERS, Sequence, dense, needed, noise, opened

ROWS = 5
PAIRS = list(permutations((4, 8, 16), 2))


@pytest.mark.parametrize(("prompt", "decode"), PAIRS)
def test_tokens_of_each_kind_have_the_bits_of_their_level(small: Path, prompt: int, decode: int) -> None:
    mixed = dense(decode, prompt)
    need = needed(small, mixed)
    uniform = {bits: opened(small, dense(bits)) for bits in (prompt, decode)}
    for cache in (need["least"], (need["least"] + need["all"]) // 2, need["all"]):
        engine = opened(small, mixed, cache=cache)
        for bits, is_prompt in ((prompt, True), (decode, False)):
            found, expected = Sequence(engine), Sequence(uniform[bits])
            for start in (0, ROWS):
                x = noise(ROWS, start)
                one, other = found.feed(x, start, is_prompt), expected.feed(x, start, is_prompt)
                np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))
        for layer in range(*LAYERS):
            x = noise(ROWS, layer)
            for bits, is_prompt in ((prompt, True), (decode, False)):
                for chunks in (None, (1, 2)):
                    expected_branch = uniform[bits].ffn(layer, x, chunks)
                    np.testing.assert_array_equal(engine.ffn(layer, x, chunks, is_prompt), expected_branch)


def test_a_token_touches_what_its_own_level_reads(small: Path) -> None:
    for prompt, decode in PAIRS:
        mixed, uniform = needed(small, dense(decode, prompt)), needed(small, dense(decode))
        assert mixed["parts"] == uniform["parts"]
        assert mixed["all"] == needed(small, dense(max(prompt, decode)))["all"]
