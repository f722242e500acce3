"""What is computed, by the options of generate and plan: what is printed, kept in stats, and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import Model, UsageError
from m2cache_rs.cli.words import chosen_words, recipe_words
from m2cache_rs.plan import plan as plans
from m2cache_rs.plan.regimes import Regimes, Row, Way
from m2cache_rs.recipe import tuned
from m2cache_rs.recipe.cut import Above, Shares
from m2cache_rs.recipe.dial import Chosen
from m2cache_rs.recipe.recipe import Certified, Dense, Recipe, Sparse
from m2cache_rs.recipe.tuned import Measured, Tuned
from m2cache_rs.runtime.opening import Opened

from tests.stores import Shown

GENERATE = ("-p", "In the beginning", "--max-new-tokens", 4)
PLANE = Recipe(8, 8, 16, 8, Sparse("plane", (Shares(0.5, (0.25, 0.25, 0.5)),)))
MEASURED = Measured(0.0123, (0.01, 0.015), 9.5, 3 << 20, 6.25, 1000, "ab12")


@pytest.fixture
def tuned_tale(tale: Path, tmp_path: Path) -> Path:
    """The demo store, tuned: a copy, the other tests' is not."""
    path = tmp_path / "tuned.m2c"
    shutil.copytree(tale, path)
    tuned.save(path, Opened(path).manifest["id"], {"balanced": Tuned(PLANE, MEASURED)})
    return path


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe.dense(16), "16 bits"),
        (Recipe(8, 8, 16, 4, Dense(4)), "attn 8, ffn 4, head 8, embed 16 bits"),
        (Recipe(8, 8, 8, 16, Dense(8)), "8 bits, FFN of prompts 16"),
        (
            Recipe(8, 8, 16, 8, Certified(16)),
            (
                "attn 8, head 8, embed 16 bits; neurons that are not certified to be off at 16 bits, "
                "all at 8 bits in prompts"
            ),
        ),
        (
            PLANE,
            (
                "attn 8, head 8, embed 16 bits; 50 % (25 % at 16, 25 % at 8, 50 % at 4) of neurons by plane, "
                "all at 8 bits in prompts"
            ),
        ),
        (
            Recipe(
                8,
                8,
                8,
                8,
                Sparse("lowrank", (Shares(0.25, (0, 1, 0)), Shares(0.5, (0, 1, 0))), predictor="svd"),
            ),
            (
                "attn 8, head 8, embed 8 bits; 25 to 50 % (8 bits) of neurons by lowrank svd, "
                "all at 8 bits in prompts"
            ),
        ),
        (
            Recipe(8, 8, 8, 8, Sparse("plane", (Above((1.0, 0.5, None), 0.3),))),
            "attn 8, head 8, embed 8 bits; at most 30 % of neurons by plane, all at 8 bits in prompts",
        ),
        (replace(Recipe.dense(8), query_heads=(0.01,)), "8 bits; 1 % of query heads (1 of 4)"),
        (
            replace(Recipe.dense(8), query_heads=(0.5, 1.0)),
            "8 bits; 50 to 100 % of query heads (2 to 4 of 4)",
        ),
    ],
)
def test_recipes_in_words(recipe: Recipe, words: str) -> None:
    assert recipe_words(recipe, 4) == words
    assert chosen_words(Chosen(recipe, "balanced", MEASURED), 4) == (
        f"balanced: {words} (measured KL 1.23e-02 nats, 95 %: 1.00e-02 to 1.50e-02; perplexity 9.5; "
        "3.0 MiB a token, 6.25 bits per FFN weight)"
    )


def test_generate_tells_the_recipe_and_what_it_touched(shown: Shown, tale: Path) -> None:
    options = ["--select", "plane", "--active", 0.25, "--bands", "25/25/50", "--prompt-bits", 8]
    code, out, err = shown("generate", tale, *GENERATE, *options)
    assert code == 0, err
    assert out
    before, after = err.splitlines()
    assert "25 % (25 % at 16, 25 % at 8, 50 % at 4) of neurons by plane, all at 8 bits in prompts" in before
    assert "a new token touched" in after
    assert "25.0% of neurons" in after
    report = json.loads(shown("generate", tale, *GENERATE, *options, "--json")[1])
    found = report["recipe"]
    assert found == report["stats"]["recipe"]
    assert found["recipe"]["prompt"] == 8
    assert (found["name"], found["measured"]) == (None, None)
    spec = Opened(tale).architecture
    counts = Shares(0.25, (0.25, 0.25, 0.5)).counts(spec.ffn)
    assert found["cost"]["active"] == [count / spec.ffn for count in counts]
    assert 2 < found["cost"]["bits_per_weight"] < 8


def test_a_tuned_recipe_by_its_name(shown: Shown, tuned_tale: Path) -> None:
    code, _, err = shown("generate", tuned_tale, *GENERATE, "--quality", "balanced")
    assert code == 0, err
    assert "m2cache: balanced: attn 8, head 8" in err
    assert "measured KL 1.23e-02 nats" in err
    with Model.open(tuned_tale, quality="balanced") as model:
        assert model.recipe == PLANE
        assert model.stats()["recipe"] == {
            "name": "balanced",
            "recipe": PLANE.to_dict(),
            "measured": MEASURED.to_dict(),
            "cost": None,
        }
        assert (model.precision.ffn, model.precision.attn) == (16, 8)
    with pytest.raises(UsageError, match="none of the tuned recipes"):
        Model.open(tuned_tale, quality="fast")


def test_exact_is_the_default(tale: Path) -> None:
    ids = [1, 2, 3]
    with Model.open(tale) as plain, Model.open(tale, quality="exact") as exact:
        assert plain.stats()["recipe"]["name"] == "exact"
        assert plain.recipe == exact.recipe == Recipe.dense(16)
        assert (plain.logits(ids) == exact.logits(ids)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "best"], "select is 'best'; it must be one of plane, lowrank"),
        (["--active", "0.5"], "active goes with select"),
        (["--select", "plane", "--bands", "50/50"], "three shares are needed, at 16/8/4 bits"),
        (["--select", "plane", "--bands", "50/50/50"], "sum to 100"),
        (["--select", "plane", "--candidates", "0.5"], "candidates goes with select cascade"),
        (["--select", "plane", "--predictor", "svd"], "predictor goes with select lowrank or cascade"),
        (["--select", "lowrank"], "needs a predictor"),
        (["--select", "certified"], "certified"),
        (["--prompt-bits", "3"], "prompt_bits is 3"),
        (["--quality", "best"], "quality is 'best'"),
        (["--quality", "high"], "was never tuned: `m2cache tune"),
        (["--quality", "high", "--select", "plane"], "quality says all that is computed"),
        (["--recipe", "/nowhere"], "the recipe /nowhere cannot be read"),
        (["--recipe", __file__], "is no JSON"),
        (["--recipe", __file__, "--bands", "25/25/50"], "recipe says all that is computed"),
    ],
)
def test_what_no_recipe_comes_of_is_refused(
    shown: Shown, tale: Path, options: list[str], message: str
) -> None:
    for command in (["generate", tale, *GENERATE], ["plan", tale, "--disk-gbps", 1]):
        code, out, err = shown(*command, *options)
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1
        assert message in err


def test_a_plane_that_is_not_stored(shown: Shown, tale_mid: Path) -> None:
    code, _, err = shown("generate", tale_mid, *GENERATE, "--select", "plane", "--bands", "25/25/50")
    assert code == 2
    assert "ffn at 16 bits, which needs the plane 'low'" in err
    assert shown("generate", tale_mid, *GENERATE, "--select", "plane")[0] == 0


def test_plan_of_a_recipe(shown: Shown, tale: Path) -> None:
    command = ["plan", tale, "--disk-gbps", 1, "--ctx", 64, "--select", "plane", "--active", 0.25]
    code, out, err = shown(*command)
    assert code == 0, err
    assert "recipe" in out.splitlines()[0]
    assert "25 % (16 bits) of neurons by plane" in out
    assert "plane 25 %" in out
    assert "supposed: 5 % of dense at 4 bits" in out
    report = json.loads(shown(*command, "--json")[1])
    assert report["recipe"]["recipe"]["ffn"]["sparse"]["selector"] == "plane"
    comparison = report["comparison"]
    assert comparison["active"] == 0.25
    assert comparison["predictor_known"] is False
    assert comparison["advice"].startswith("at 4 bits ")
    speeds, levels = comparison["tokens_per_second"], report["levels"]
    assert speeds["16"]["dense"] == levels["16"]["expected"]["tokens_per_second"]
    assert speeds["16"]["plane"] > speeds["16"]["dense"]
    touched = report["weights"]["parts"]["ffn"]
    assert comparison["ffn_bytes_per_token"]["16"]["plane"] == touched


def test_plan_makes_no_plan_twice(shown: Shown, tale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = plans.make, list[Recipe]()

    def once(shape: Any, request: Any, chosen: Chosen, rates: Any) -> Any:
        assert chosen.recipe not in made
        made.append(chosen.recipe)
        return make(shape, request, chosen, rates)

    monkeypatch.setattr(plans, "make", once)
    assert shown("plan", tale, "--disk-gbps", 1)[0] == 0
    # Three levels by three ways, what is asked for among them.
    assert len(made) == 9


def test_the_comparison_is_the_design_s(tale: Path) -> None:
    """Dense 3u, 6u, 12u; plane (2 + a)u, (2 + 4a)u, (2 + 10a)u; lowrank 3au, 6au, 12au and its predictor."""
    shape = Opened(tale)
    a, found = 0.5, Regimes.of(shape, 0.5, Recipe.dense(16), lambda recipe: None)
    u = found.scan / 2
    for row, level in zip(found.rows, (1, 2, 4), strict=True):
        # Scales are a ninth of u, and the other planes have none.
        assert row.dense.bytes == pytest.approx(3 * u * level, rel=0.15)
        assert row.plane.bytes == pytest.approx((2 + (3 * level - 2) * a) * u, rel=0.15)
        assert row.lowrank.bytes - found.predictor == pytest.approx(3 * a * u * level, rel=0.15)


@pytest.mark.parametrize(
    ("speeds", "pays"),
    [
        ((1.0, 1.09, 1.05), "dense"),
        ((1.0, 1.3, 1.2), "plane (1.3 times dense)"),
        ((1.0, None, 2.25), "lowrank (2.2 times dense)"),
        ((None, 0.2, None), "plane"),
        ((None, None, None), "nothing fits"),
    ],
)
def test_what_pays_is_clearly_faster(speeds: tuple[float | None, ...], pays: str) -> None:
    assert Row(8, *(Way(1, speed) for speed in speeds)).pays() == pays
