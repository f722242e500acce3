"""Files of predictors: what is read of them, and what is wrong with them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import StoreError, StoreIOError, UsageError
from m2cache_rs.models import architecture_of
from m2cache_rs.recipe.dial import Dial, Home
from m2cache_rs.recipe.predictors import Predictor, find, path_of
from safetensors.numpy import save_file

from tests.stores import SMALL

SPEC = architecture_of(SMALL)[1]
RANKS = (4, 9)
Tensors = dict[str, np.ndarray[Any, Any]]


def tensors(dtype: type = np.float32) -> Tensors:
    """Factors of the small model's layers, each of a rank of its own."""
    rng, found = np.random.default_rng(1), {}
    for layer, rank in enumerate(RANKS):
        shapes = {
            "down": (rank, SPEC.hidden),
            "up": (SPEC.ffn, rank),
            "bias": (SPEC.ffn,),
            "weight": (SPEC.ffn,),
        }
        for part, shape in shapes.items():
            found[f"layer.{layer}.{part}"] = rng.standard_normal(shape).astype(dtype)
    return found


def write(store: Path, name: str = "svd", **changes: Any) -> Path:
    path = path_of(store, name)
    path.parent.mkdir(exist_ok=True)
    metadata = {"store": "id", "kind": "svd", "bits": "8"} | changes.pop("metadata", {})
    save_file(changes.pop("tensors", tensors()) | changes, path, metadata)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_factors_come_layer_by_layer(tmp_path: Path, dtype: type) -> None:
    given = tensors(dtype)
    write(tmp_path, tensors=given)
    predictor = Predictor(tmp_path, "svd", "id", SPEC)
    assert (predictor.kind, predictor.bits, predictor.ranks) == ("svd", 8, RANKS)
    for layer, factors in enumerate(predictor.layers()):
        for part in ("down", "up", "bias", "weight"):
            found = getattr(factors, part)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, given[f"layer.{layer}.{part}"])


def test_a_digest_tells_a_predictor_from_one_made_anew(tmp_path: Path) -> None:
    path = write(tmp_path)

    def digest() -> str:
        return Predictor(tmp_path, "svd", "id", SPEC).digest

    first, content = digest(), path.read_bytes()
    assert first == hashlib.sha256(content).hexdigest()
    path.write_bytes(content[:-1] + b"x")
    assert digest() != first
    path.unlink()
    path.write_bytes(content)
    assert digest() == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"store": "other"}}, "made for another store"),
        ({"metadata": {"bits": "5"}}, "bits '5', not 4 or 8"),
        ({"layer.1.down": np.zeros((9, 3), np.float32)}, "lacks factors of layer 1"),
        ({"layer.0.bias": np.zeros(3, np.float32)}, "lacks factors of layer 0"),
        ({"layer.0.up": np.zeros((SPEC.ffn, 4), np.int8)}, "lacks factors of layer 0"),
        ({"layer.0.down": np.zeros((0, SPEC.hidden), np.float32)}, "lacks factors of layer 0"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(StoreError, match=f"{path}.*{message}.*m2cache profile"):
        Predictor(tmp_path, "svd", "id", SPEC)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=f"the predictor {path} is broken: .*m2cache profile"):
        Predictor(tmp_path, "svd", "id", SPEC)
    path.unlink()
    with pytest.raises(StoreIOError, match=f"the predictor {path} cannot be read"):
        Predictor(tmp_path, "svd", "id", SPEC)


def test_the_only_predictor_needs_no_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"has none; `m2cache profile {tmp_path} --text FILE` makes one"):
        find(tmp_path, None)
    write(tmp_path, "svd")
    assert find(tmp_path, None) == "svd"
    write(tmp_path, "trained")
    with pytest.raises(
        UsageError, match=r"several predictors are there .*svd, trained \(predictor; --predictor"
    ):
        find(tmp_path, None)
    with pytest.raises(UsageError, match=r"there is no predictor 'x' .*svd, trained"):
        find(tmp_path, "x")
    with pytest.raises(UsageError, match=r"there is no predictor 'x' in .*: tune it again"):
        find(tmp_path, "x", "tune it again")
    assert find(tmp_path, "trained") == "trained"


def test_a_recipe_bears_the_name_of_its_predictor(tmp_path: Path) -> None:
    home = Home(tmp_path, "id", 2, 300)
    with pytest.raises(UsageError, match="needs a predictor"):
        Dial(select="lowrank").choose(3, home)
    write(tmp_path)
    assert Dial(select="lowrank").choose(3, home).recipe.predictor == "svd"
    assert Dial(select="plane").choose(3, home).recipe.predictor is None
    write(tmp_path, "trained")
    assert Dial(select="cascade", predictor="trained").choose(3, home).recipe.predictor == "trained"
    recipe = Dial(select="lowrank", predictor="trained").choose(3, home).recipe
    assert Dial(recipe=recipe).choose(3, home).recipe.predictor == "trained"
    assert Dial(recipe=recipe, predictor="svd").choose(3, home).recipe.predictor == "svd"


def test_bytes_are_those_of_the_core_s_records(tmp_path: Path) -> None:
    """Codes and one f16 scale in 64, at 8 bits; in memory planes begin at multiples of 64 bytes."""
    write(tmp_path)
    predictor = Predictor(tmp_path, "svd", "id", SPEC)

    def blocks(width: int) -> int:
        return -(-width // 64)

    record = sum(blocks(width) * (64 + 2) for width in (SPEC.hidden, SPEC.ffn))
    assert predictor.bytes() == sum(rank * record + SPEC.ffn * 8 for rank in RANKS)

    def stride(width: int) -> int:
        return sum(-(-blocks(width) * codes // 64) * 64 for codes in (32 + 2, 32))

    kept = sum(rank * (stride(SPEC.hidden) + stride(SPEC.ffn)) + SPEC.ffn * 8 + 2 * 4096 for rank in RANKS)
    assert predictor.memory() == kept + 4 * RANKS[1] * (SPEC.hidden + SPEC.ffn)
