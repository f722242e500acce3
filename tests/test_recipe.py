"""Recipes: what may be asked for, what a file holds, and the counts that the core is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs import StoreError, StoreIOError, UsageError
from m2cache_rs.models import architecture_of
from m2cache_rs.recipe import profiles, tuned
from m2cache_rs.recipe.cut import Above, Shares, parse_bands, parse_cut
from m2cache_rs.recipe.dial import Dial, Home, read_recipe
from m2cache_rs.recipe.recipe import Certified, Dense, Recipe, Sparse
from m2cache_rs.recipe.tuned import Measured, Tuned

from tests.stores import SMALL

SPEC = architecture_of(SMALL)[1]  # two layers of 300 neurons
PLANE = {"selector": "plane", "layers": [{"active": 0.5, "bands": [0.25, 0.25, 0.5]}]}
LEVELS = {"attn": 8, "head": 8, "embed": 16, "prompt": 8}

shares = st.floats(0, 1, exclude_min=True)
levels = st.sampled_from([4, 8, 16])
cuts = st.one_of(
    st.builds(
        lambda active, first, second: Shares(
            active, (first, (1 - first) * second, (1 - first) * (1 - second))
        ),
        shares,
        st.floats(0, 1),
        st.floats(0, 1),
    ).filter(lambda cut: sum(cut.bands) > 0),
    st.builds(
        lambda scores, most: Above((scores[2], scores[1], scores[0]), most),
        st.lists(st.floats(0, 9), min_size=3, max_size=3).map(sorted),
        shares,
    ),
)
sparse = st.builds(
    lambda selector, layers, candidates: Sparse(
        selector, tuple(layers), (candidates,) if selector == "cascade" else ()
    ),
    st.sampled_from(["plane", "lowrank", "cascade", "oracle"]),
    st.lists(cuts, min_size=1, max_size=3),
    shares,
)
recipes = st.builds(
    Recipe, levels, levels, levels, levels, st.one_of(levels.map(Dense), levels.map(Certified), sparse)
)


@given(recipes)
def test_a_recipe_comes_back_from_its_file(recipe: Recipe) -> None:
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@given(cuts, st.integers(1, 20000))
def test_shares_become_counts_that_add_up(cut: Shares | Above, neurons: int) -> None:
    if isinstance(cut, Above):
        most = cut.core(neurons)["above"]["most"]
        assert 1 <= most <= neurons
        return
    counts = cut.counts(neurons)
    assert min(counts) >= 0
    assert 1 <= sum(counts) <= neurons
    assert abs(sum(counts) - cut.active * neurons) <= 0.5 or sum(counts) == 1
    for count, band in zip(counts, cut.bands, strict=True):
        assert abs(count - band * sum(counts)) <= 1


@pytest.mark.parametrize(
    ("ffn", "core"),
    [
        ({"dense": 4}, {"dense": 4}),
        ({"certified": 16}, {"certified": 16}),
        ({"sparse": PLANE}, {"sparse": {"selector": "plane", "cuts": [{"top": [38, 37, 75]}]}}),
        (
            {"sparse": {"selector": "cascade", "candidates": [0.5, 0.75], "layers": PLANE["layers"] * 2}},
            {"sparse": {"selector": {"cascade": [150, 225]}, "cuts": [{"top": [38, 37, 75]}] * 2}},
        ),
        (
            {
                "sparse": {
                    "selector": "lowrank",
                    "predictor": "svd",
                    "layers": [{"above": {"scores": [1.5, 0.7, None], "most": 0.3}}],
                }
            },
            {
                "sparse": {
                    "selector": "lowrank",
                    "cuts": [{"above": {"scores": [1.5, 0.7, None], "most": 90}}],
                }
            },
        ),
    ],
)
def test_the_core_is_given_counts(ffn: dict[str, Any], core: dict[str, Any]) -> None:
    recipe = Recipe.from_dict({**LEVELS, "ffn": ffn})
    assert json.loads(recipe.core(SPEC)) == {**LEVELS, "ffn": core}
    assert recipe.to_dict()["ffn"] == ffn


def test_a_trace_passes_through() -> None:
    trace = {"trace": {"paid": "lowrank", "memory": 0.9, "skew": 1.0, "seed": 0}}
    recipe = Recipe.from_dict({**LEVELS, "ffn": {"sparse": {**PLANE, "selector": trace}}})
    assert json.loads(recipe.core(SPEC))["ffn"]["sparse"]["selector"] == trace
    assert isinstance(recipe.ffn, Sparse)
    assert recipe.ffn.predicts


def wrong(**changes: Any) -> dict[str, Any]:
    return {**LEVELS, "ffn": {"sparse": {**PLANE, **changes}}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the recipe is None"),
        ([], "the recipe is"),
        ({"attn": 8}, "the recipe lacks head"),
        ({**LEVELS, "ffn": {"dense": 4}, "act": "f32"}, "the recipe names 'act'"),
        ({**LEVELS, "attn": 5, "ffn": {"dense": 4}}, "attn is 5; the levels are"),
        ({**LEVELS, "attn": True, "ffn": {"dense": 4}}, "attn is True"),
        ({**LEVELS, "ffn": {"dense": 4.5}}, "ffn.dense is 4.5"),
        ({**LEVELS, "ffn": {}}, "it must have one of dense, certified, sparse"),
        ({**LEVELS, "ffn": {"dense": 4, "certified": 4}}, "it must have one of"),
        ({**LEVELS, "ffn": {"sparse": {"selector": "plane"}}}, "ffn.sparse lacks layers"),
        (wrong(selector="best"), "ffn.sparse.selector is 'best'; it must be one of plane"),
        (wrong(selector={"trace": {"paid": "best"}}), "selector is"),
        (wrong(selector=[]), "selector is"),
        (wrong(layers=[]), "layers is"),
        (wrong(layers=[{}]), "layers\\[0\\] is"),
        (
            wrong(layers=[{"active": 1.5, "bands": [1, 0, 0]}]),
            "active is 1.5; a share is above 0 and at most 1: 0.5 for half",
        ),
        (wrong(layers=[{"active": 0, "bands": [1, 0, 0]}]), "active is 0; a share"),
        (wrong(layers=[{"active": "x", "bands": [1, 0, 0]}]), "active is 'x'; a number"),
        (wrong(layers=[{"active": 0.5, "bands": [1, 0]}]), "bands is \\[1, 0\\]; three shares"),
        (wrong(layers=[{"active": 0.5, "bands": [0.5, 0, 0]}]), "sum to 100"),
        (wrong(layers=[{"active": 0.5, "bands": [0.6, 0.6, -0.2]}]), "sum to 100"),
        (wrong(layers=[{"above": {"scores": [1, 2, 3], "most": 0.5}}]), "thresholds rise with the level"),
        (wrong(layers=[{"above": {"scores": [None] * 3, "most": 0.5}}]), "one is needed"),
        (wrong(layers=[{"above": {"scores": [1, 1], "most": 0.5}}]), "three thresholds"),
        (wrong(layers=[{"above": {"scores": [1, 1, float("nan")], "most": 0.5}}]), "a number is needed"),
        (wrong(layers=[{"above": {"scores": [1, 1, 1], "most": 2}}]), "above.most is 2"),
        (wrong(candidates=0.5), "candidates go with the selector cascade"),
        (wrong(selector="cascade"), "and that needs them"),
        (wrong(selector="cascade", candidates=7), "candidates is 7"),
        (wrong(predictor=3), "predictor is 3; a name"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.from_dict(value)


def test_arguments_of_like_types_have_names() -> None:
    with pytest.raises(TypeError):
        Dial(8, "plane", 0.5)  # type: ignore[misc]


def test_no_cascade_is_made_without_candidates() -> None:
    with pytest.raises(UsageError, match="candidates go with the selector cascade"):
        Sparse("cascade", (Shares(0.5, (0, 0, 1)),))
    with pytest.raises(UsageError, match="candidates go with the selector cascade"):
        Sparse("plane", (Shares(0.5, (0, 0, 1)),), (0.5,))


def test_layers_are_one_or_as_many_as_the_model_s() -> None:
    recipe = Recipe.from_dict(wrong(layers=PLANE["layers"] * 3))
    with pytest.raises(UsageError, match="layers for 3 layers, the model has 2: give 1 for all, or 2"):
        recipe.core(SPEC)


def test_a_cascade_keeps_no_more_than_its_candidates() -> None:
    recipe = Recipe.from_dict(wrong(selector="cascade", candidates=[0.6, 0.4]))
    with pytest.raises(
        UsageError, match=r"share of 0.5 of the neurons of layer 1, and its candidates are 0.4"
    ):
        recipe.core(SPEC)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn": 16}, "attn at 16 bits, which needs the plane 'low'"),
        ({"prompt": 16}, "prompt at 16 bits"),
        ({"ffn": {"sparse": {**PLANE, "selector": "oracle"}}}, "ffn at 16 bits"),
        (
            {"ffn": {"sparse": {"selector": "oracle", "layers": [{"active": 0.5, "bands": [0, 1, 0]}]}}},
            "the oracle at 16 bits",
        ),
        ({"ffn": {"certified": 16}}, "ffn at 16 bits"),
    ],
)
def test_a_plane_that_is_not_stored_is_named(changes: dict[str, Any], message: str) -> None:
    recipe = Recipe.from_dict({**LEVELS, "embed": 8, "ffn": {"dense": 4}, **changes})
    with pytest.raises(UsageError, match=message):
        recipe.check_planes(2)
    recipe.check_planes(3)


@pytest.mark.parametrize("text", ["25/25/50", "0.25/0.25/0.5", [25, 25, 50], (0.25, 0.25, 0.5), "1/1/0"])
def test_bands_are_shares_of_1_or_100(text: Any) -> None:
    if text == "1/1/0":
        with pytest.raises(UsageError, match="sum to 100"):
            parse_bands(text)
    else:
        assert parse_bands(text) == (0.25, 0.25, 0.5)


def test_a_cut_is_shares_or_thresholds() -> None:
    for value in (3, "x", {"active": 0.5}, {"above": {"scores": [1, 1, 1]}}, {"above": 3}):
        with pytest.raises(UsageError, match="it must have active and bands, or above"):
            parse_cut(value, "layers[0]")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, Recipe.dense(16)),
        ({"quality": "exact"}, Recipe.dense(16)),
        ({"precision": 8}, Recipe.dense(8)),
        ({"precision": "attn=8,ffn=4"}, Recipe(8, 16, 16, 4, Dense(4))),
        ({"precision": "ffn=4", "prompt_bits": 8}, Recipe(16, 16, 16, 8, Dense(4))),
        ({"select": "certified"}, Recipe(16, 16, 16, 16, Certified(16))),
        ({"select": "certified", "precision": 8, "prompt_bits": 4}, Recipe(8, 8, 8, 4, Certified(8))),
        ({"select": "plane"}, Recipe(16, 16, 16, 16, Sparse("plane", (Shares(0.5, (1, 0, 0)),)))),
        (
            {"select": "plane", "precision": "ffn=8", "active": "0.3"},
            Recipe(16, 16, 16, 8, Sparse("plane", (Shares(0.3, (0, 1, 0)),))),
        ),
        (
            {"select": "oracle", "precision": 8, "active": 0.25, "bands": "0/50/50"},
            Recipe(8, 8, 8, 8, Sparse("oracle", (Shares(0.25, (0, 0.5, 0.5)),))),
        ),
        (
            {"select": "cascade", "precision": 4, "active": 0.2},
            Recipe(4, 4, 4, 4, Sparse("cascade", (Shares(0.2, (0, 0, 1)),), (0.4,))),
        ),
        (
            {"select": "cascade", "precision": 4, "active": 0.2, "candidates": 0.3, "predictor": "svd"},
            Recipe(4, 4, 4, 4, Sparse("cascade", (Shares(0.2, (0, 0, 1)),), (0.3,), "svd")),
        ),
    ],
)
def test_what_is_asked_for_is_a_recipe(asked: dict[str, Any], expected: Recipe) -> None:
    chosen = Dial(**asked).choose(3, None)
    assert chosen.recipe == expected
    assert chosen.name == ("exact" if expected == Recipe.dense(16) else "")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"recipe": {}, "select": "plane"}, "recipe says all that is computed: drop it, or select"),
        ({"recipe": {}, "quality": "exact"}, "recipe says all"),
        ({"quality": "high", "precision": 8, "active": 0.5}, "quality says all .* or precision and active"),
        ({"quality": "best"}, "quality is 'best'; it must be one of exact, high, balanced, fast"),
        (
            {"select": "gate"},
            "select is 'gate'; it must be one of plane, lowrank, cascade, certified, oracle",
        ),
        ({"active": 0.5}, "active goes with select plane, .*, not with no select"),
        ({"select": "certified", "active": 0.5}, "active goes with select .*, not with select 'certified'"),
        ({"select": "certified", "bands": "25/25/50"}, "bands goes with select"),
        ({"bands": "25/25/50"}, "bands goes with select"),
        ({"select": "plane", "candidates": 0.5}, "candidates goes with select cascade"),
        ({"select": "plane", "predictor": "svd"}, "predictor goes with select lowrank or cascade"),
        ({"select": "plane", "bands": "25/25/50", "precision": "ffn=8"}, "bands say the levels of the FFN"),
        ({"prompt_bits": 5}, "prompt_bits is 5"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Dial(**asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"select": "plane", "active": 2}, "active is 2; a share"),
        ({"select": "plane", "active": "half"}, "active is 'half'; a number"),
        ({"select": "plane", "bands": "a/b/c"}, "a number is needed"),
        ({"select": "cascade", "candidates": 0}, "candidates is 0"),
        ({"quality": "fast"}, "needs a store"),
        ({"recipe": "/nowhere/r.json"}, "the recipe /nowhere/r.json cannot be read: No such file"),
    ],
)
def test_what_no_recipe_comes_of_is_said(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Dial(**asked).choose(3, None)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"[]"])
def test_a_file_that_is_no_recipe_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"the recipe {path}"):
        Dial(recipe=path).choose(3, None)


def test_a_recipe_out_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(wrong()))
    assert Dial(recipe=path).choose(3, None).recipe == Recipe.from_dict(wrong())
    with pytest.raises(UsageError, match="needs the plane 'low'"):
        Dial(recipe=path).choose(2, None)


MEASURED = Measured(0.01, (0.008, 0.012), 9.5, 1e6, 6.25, 1000, "ab12")


def test_tuned_recipes_are_kept_with_their_measure(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(wrong())
    path = tuned.save(tmp_path, "id", {"balanced": Tuned(recipe, MEASURED)})
    assert [one.name for one in path.parent.iterdir()] == ["recipes.json"]
    chosen = Dial(quality="balanced").choose(3, Home(tmp_path, "id", 2, 300))
    assert (chosen.recipe, chosen.name, chosen.measured) == (recipe, "balanced", MEASURED)
    assert Dial(quality="exact").choose(3, Home(tmp_path, "id", 2, 300)).recipe == Recipe.dense(16)
    with pytest.raises(UsageError, match=r"none of the tuned recipes .*\(balanced\)"):
        Dial(quality="fast").choose(3, Home(tmp_path, "id", 2, 300))
    with pytest.raises(StoreError, match="made for another store"):
        Dial(quality="balanced").choose(3, Home(tmp_path, "other", 2, 300))
    with pytest.raises(UsageError, match="the names are high, balanced, fast"):
        tuned.save(tmp_path, "id", {"exact": Tuned(recipe, MEASURED)})


def test_a_store_that_was_never_tuned_says_how(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"never tuned: `m2cache tune {tmp_path} --text FILE`"):
        Dial(quality="high").choose(3, Home(tmp_path, "id", 2, 300))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is not of version 1"),
        ('{"version": 2}', "is not of version 1"),
        ('{"version": 1, "store": "id"}', "has no recipes"),
        ('{"version": 1, "store": "id", "recipes": {"high": 3}}', "recipe 'high': it lacks"),
        (
            json.dumps({"version": 1, "store": "id", "recipes": {"high": {"recipe": {}, "measured": {}}}}),
            "the recipe lacks attn",
        ),
        (
            json.dumps(
                {"version": 1, "store": "id", "recipes": {"high": {"recipe": wrong(), "measured": {}}}}
            ),
            "text is None",
        ),
    ],
)
def test_broken_files_of_recipes_are_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "profiles/recipes.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(StoreError, match=f"{path}.*{message}.*m2cache tune"):
        Dial(quality="high").choose(3, Home(tmp_path, "id", 2, 300))


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "profiles").write_text("a file")
    with pytest.raises(StoreIOError, match=r"recipes\.json cannot be written"):
        tuned.save(tmp_path, "id", {})
    folder = tmp_path / "other/profiles"
    folder.mkdir(parents=True)

    def fail(file: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreIOError, match="No space left"):
        profiles.write(folder / "x", fail)
    assert list(folder.iterdir()) == []
    written = profiles.write(folder / "x", lambda file: file.write(b"x"))
    (folder / "other").touch()
    assert written.stat().st_mode == (folder / "other").stat().st_mode, "whoever reads stores reads profiles"


TRACE: dict[str, Any] = {"trace": {"paid": "plane", "memory": 0.5, "skew": 1.0, "seed": 0}}


@pytest.mark.parametrize("given", [3, b"x", [], 1.5])
def test_a_recipe_that_is_none(given: Any) -> None:
    with pytest.raises(UsageError, match=r"recipe is .*; a Recipe, what"):
        Dial(recipe=given).choose(3, None)


def test_bits_of_prompts_are_integers() -> None:
    with pytest.raises(UsageError, match=r"prompt_bits is 8\.0; an integer is needed"):
        Dial(prompt_bits=8.0)  # type: ignore[arg-type]


def test_files_that_hold_no_recipe_of_a_user(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    trace = Recipe(8, 8, 8, 8, Sparse(TRACE, (Shares(0.5, (0, 0, 1)),)))
    for text, message in (
        (" " * (16 << 20) + "{}", "more than 16 MiB"),
        (
            json.dumps(trace.to_dict()),
            "for benches alone",
        ),
        ('{"attn": 8, "attn": 4}', "the recipe names attn twice"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=f"the recipe {path}: .*{message}"):
            read_recipe(path)


def test_thresholds_beyond_f32_are_named() -> None:
    above = {"above": {"scores": [1e39, None, None], "most": 0.5}}
    with pytest.raises(UsageError, match=r"scores is 1e\+39; scores are f32, up to 3\.4e\+38"):
        parse_cut(above, "layers")
