"""The table of recipes: its checks, what its picture shows, and its file (benches/quality/recipes.py)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

QUALITY = Path(__file__).resolve().parents[1] / "benches/quality"
BLOCKS = 20


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bench's modules by name, as its script finds them."""
    monkeypatch.syspath_prepend(QUALITY)

    def room(name: str) -> ModuleType:
        return import_module(f"recipe_{name}")

    return room


def _line(rooms: Any, group: str, label: str, kl: float, size: float, **more: Any) -> Any:
    """A line whose blocks of 32 tokens differ by a tenth."""
    wave = 1 + 0.1 * np.sin(np.arange(BLOCKS))
    wave *= kl / wave.mean()
    fields = {"perplexity": 20 * (1 + kl), "interval": (kl, kl), "bits": size, **more}
    return rooms("rows").Line(
        "toy", group, label, kl=kl, bytes=size, blocks=tuple((32 * wave).tolist()), **fields
    )


def _table(rooms: Any, *lines: Any) -> Any:
    return rooms("rows").Table({"counts": [32] * BLOCKS}, list(lines))


def _uniform(rooms: Any) -> list[Any]:
    return [_line(rooms, "uniform", f"{bits} bits", 0.4 / bits, 100.0 * bits) for bits in (4, 8, 16)]


def _holds(rooms: Any, table: Any, rule: str) -> dict[str, bool]:
    found = rooms("checks")
    return {one.where: one.holds for one in found.all_of(table) if one.rule == getattr(found, rule)}


def test_tuned_points_are_held_against_straight_lines(rooms: Any) -> None:
    tuned = [
        _line(rooms, "tuned, KL", "below", 0.07, 600.0),
        _line(rooms, "tuned, KL", "above", 0.08, 600.0),
        _line(rooms, "tuned, KL", "on the second", 0.0375, 1200.0),
        _line(rooms, "tuned, KL", "a level itself", 0.05, 800.0),
        _line(rooms, "tuned, KL", "less than any level", 0.01, 300.0),
    ]
    holds = _holds(rooms, _table(rooms, *_uniform(rooms), *tuned), "LINES")
    assert holds == {"below": True, "above": False, "on the second": True, "a level itself": True}


def test_top_k_is_compared_share_by_share(rooms: Any) -> None:
    lines = [
        _line(rooms, group, f"{share}", kl, 500.0, share=share, bands="16")
        for group, losses in (("oracle", (0.01, 0.01, 0.01)), ("plane", (0.015, 0.03, 0.5)))
        for share, kl in zip((0.5, 0.35, 0.1), losses, strict=True)
    ]
    assert _holds(rooms, _table(rooms, *lines), "TOP_K") == {"0.5": True, "0.35": False}


def test_no_worse_means_within_the_interval_of_the_paired_difference(rooms: Any) -> None:
    fixed = _line(rooms, "fixed 25/25/50", "a", 0.05, 600.0)
    noisy = np.asarray(fixed.blocks) + np.resize([4.0, -3.9], BLOCKS)
    for blocks, expected in ((tuple(noisy), True), (tuple(np.asarray(fixed.blocks) + 0.1), False)):
        tuned = _line(rooms, "tuned, KL", "a", 0.05, 600.0)
        tuned = import_module("dataclasses").replace(tuned, blocks=blocks)
        table = _table(rooms, *_uniform(rooms), tuned, fixed)
        checks = [one for one in rooms("checks").all_of(table) if "25/25/50" in one.rule]
        assert [one.holds for one in checks] == [expected]
        assert checks[0].value > 0
        assert not checks[0].clear


def test_exact_top_k_is_shown_as_if_ranking_were_free(rooms: Any) -> None:
    curves = rooms("curves")
    exact = [
        _line(rooms, "oracle", f"{size}", 0.1, 900.0, free=(size, 3.0), bands="16") for size in (500.0, 200.0)
    ]
    others = _line(rooms, "cascade (svd)", "x", 0.1, 300.0, bands="16")
    by_group = {(curve.group, curve.bands): curve for curve in curves.CURVES}
    lines = [*exact, others]
    assert [one.shown[0] for one in curves.members(lines, by_group["oracle", "16"])] == [200.0, 500.0]
    assert curves.members(lines, by_group["cascade", "16"]) == [others]
    assert curves.members(lines, by_group["plane", "25/25/50"]) == []


def test_straight_lines_pass_through_the_levels(rooms: Any) -> None:
    x, y = rooms("curves").straight(_uniform(rooms))
    assert (x[0], x[-1]) == (400.0, 1600.0)
    assert np.isclose(np.interp(600.0, x, y), 0.075)
    assert rooms("curves").straight([])[0].size == 0


def test_a_table_survives_its_file(rooms: Any, tmp_path: Path) -> None:
    rows = rooms("rows")
    lines = [_line(rooms, "llama.cpp", "Q4_0", 0.1, 300.0), *_uniform(rooms)]
    missing = rows.Missing("toy", "lowrank (trained)", "no torch")
    table = rows.Table({"counts": [32] * BLOCKS}, lines, [missing])
    table.save(tmp_path / "table.json")
    found = rows.load(tmp_path / "table.json")
    assert found == table
    assert [one.group for one in found.lines] == ["uniform"] * 3 + ["llama.cpp"]


def test_the_page_names_what_is_missing_and_what_fails(rooms: Any) -> None:
    tuned = _line(rooms, "tuned, KL", "half", 0.08, 600.0)
    table = _table(rooms, *_uniform(rooms), tuned)
    table.missing.append(rooms("rows").Missing("toy", "lowrank (trained)", "it needs torch"))
    table.about |= {"tokens": 640, "tune_tokens": 64, "minutes": 1.0, "machine": {"python": "3"}}
    checks = rooms("checks").all_of(table)
    page = rooms("page").markdown(table, checks, "recipes.png")
    assert "| toy | lowrank (trained) | it needs torch |" in page
    assert "| toy | half | **no** |" in page
    assert "does not hold: toy, half" in rooms("page").summary(table, checks)


def test_budgets_lie_between_uniform_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(QUALITY)
    found = import_module("recipe_tuned").budgets({4: 100.0, 8: 200.0, 16: 400.0})
    assert found["uniform 4"] == 100
    assert found["50% from 4 to 8"] == 150
    assert found["uniform 8"] == 200
    assert found["50% from 8 to 16"] == 300
