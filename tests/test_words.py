"""What the command line says of recipes and numbers."""

from __future__ import annotations

import json

import pytest
from m2cache_rs.cli.output import print_json
from m2cache_rs.cli.words import activation_words
from m2cache_rs.eval.scores import Scores
from m2cache_rs.recipe.cut import Above, Shares
from m2cache_rs.recipe.recipe import Certified, Dense, Ffn, Recipe, Sparse

FINE = (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("ffn", "words"),
    [
        (Dense(16), "f32 activations"),
        (Certified(16), "f32 activations"),
        (Sparse("oracle", (Shares(0.5, FINE),)), "f32 activations"),
        (Dense(8), "int8 activations below 16 bits"),
        (Sparse("plane", (Shares(0.5, FINE),)), "int8 activations below 16 bits"),
        (
            Sparse("oracle", (Shares(0.5, FINE), Shares(0.5, (0.5, 0.0, 0.5)))),
            "int8 activations below 16 bits",
        ),
        (Sparse("oracle", (Above((1.0, None, 0.0), 0.5),)), "int8 activations below 16 bits"),
    ],
)
def test_activations_are_told_by_all_that_new_tokens_meet(ffn: Ffn, words: str) -> None:
    recipe = Recipe(16, 16, 16, 16, ffn)
    assert activation_words(recipe, "auto") == words
    assert activation_words(recipe, "f32") == "f32 activations"


def test_a_perplexity_beyond_all_numbers_is_infinite_and_null_in_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores = Scores(compared=False)
    scores.tokens, scores.bytes, scores.nats = 1, 1, 800.0
    assert scores.perplexity == float("inf")
    print_json({"all": [scores.to_dict()]})
    assert json.loads(capsys.readouterr().out)["all"][0]["perplexity"] is None
