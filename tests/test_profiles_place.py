"""What was measured of a store is never written into another one that took its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from m2cache_rs import StoreError
from m2cache_rs.recipe.profiles import write, write_json


def test_a_store_that_was_replaced_gets_nothing(tmp_path: Path) -> None:
    (tmp_path / "m2cache.json").write_text(json.dumps({"id": "new"}))
    path = tmp_path / "profiles" / "recipes.json"
    with pytest.raises(StoreError, match="was replaced by another store") as raised:
        write_json(path, "old", 1, {})
    assert "recipes.json" in str(raised.value)
    assert not path.parent.exists()
    write_json(path, "new", 1, {})
    assert [one.name for one in path.parent.iterdir()] == ["recipes.json"]


def test_a_store_that_is_replaced_while_it_is_written_gets_nothing(tmp_path: Path) -> None:
    manifest = tmp_path / "m2cache.json"
    manifest.write_text(json.dumps({"id": "old"}))
    path = tmp_path / "profiles" / "neurons.json"
    with pytest.raises(StoreError, match="was replaced"):
        write(path, lambda file: manifest.write_text(json.dumps({"id": "new"})), "old")
    assert list(path.parent.iterdir()) == []
