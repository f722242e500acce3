"""A run of benches/quality/recipes.py that is stopped, and gone on with."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from m2cache_rs.errors import UsageError

QUALITY = Path(__file__).resolve().parents[1] / "benches/quality"
NAME = "toy"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of a run, with a meter that only makes lines."""
    monkeypatch.syspath_prepend(QUALITY)
    found = SimpleNamespace(**{name: import_module(f"recipe_{name}") for name in ("cases", "rows", "run")})
    found.made = []

    class Meter:
        counts = (32,)

        def __init__(self, *of: Any) -> None: ...

        def ours(self, group: str, label: str, recipe: Any, **labels: Any) -> Any:
            found.made.append((group, label))
            return found.rows.Line(NAME, group, label, 20.0, 0.1, (0.1, 0.1), 100.0, 4.5, **labels)

    def predictors(*of: Any) -> Any:
        return found.run.recipe_predictors.Predictors(("svd",), {"trained": "no torch"}, {"rank": 1})

    monkeypatch.setattr(found.run, "Meter", Meter)
    monkeypatch.setattr(found.run, "Opened", lambda store: None)
    monkeypatch.setattr(found.run.recipe_predictors, "make", predictors)
    monkeypatch.setattr(found.run, "tuned", lambda *of: iter([_budgeted(found.run, "uniform 4")]))
    return found


def _budgeted(run: Any, label: str) -> Any:
    choice = run.Choice(run.KL_TUNED, label, None)
    return SimpleNamespace(choice=choice, budget=1.0)


def _run(bench: Any, table: Any, folder: Path) -> None:
    """One run of the case, kept in a file behind every group, as the script keeps it."""
    (folder / "learning.txt").write_text("words")
    case = bench.cases.Case(NAME, folder, [], folder / "learning.txt")
    wishes = bench.run.Wishes(SimpleNamespace(), 64, peer=False)
    bench.run.Run(case, wishes, folder, table, lambda: table.save(folder / "kept.json")).measure()


def _missing(table: Any) -> dict[str, str]:
    return {one.label: one.reason for one in table.missing}


def test_what_is_missing_is_named_with_its_reason(bench: Any, tmp_path: Path) -> None:
    table = bench.rows.Table({"predictors": {}})
    _run(bench, table, tmp_path)
    assert _missing(table) == {
        "lowrank (trained)": "no torch",
        "llama.cpp": "it was not asked for (--no-peer)",
    }
    groups = {line.group for line in table.lines}
    assert {"uniform", "plane", "lowrank (svd)", "cascade (svd)", "tuned, KL"} <= groups


def test_a_stopped_run_names_what_it_owes_and_is_gone_on_with(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*of: Any) -> Any:
        raise KeyboardInterrupt

    table = bench.rows.Table({"predictors": {}})
    with monkeypatch.context() as interrupted:
        interrupted.setattr(bench.run.recipe_predictors, "make", stopped)
        with pytest.raises(KeyboardInterrupt):
            _run(bench, table, tmp_path)
    kept = bench.rows.load(tmp_path / "kept.json")
    owed = {label for label, reason in _missing(kept).items() if reason == bench.run.STOPPED}
    assert owed == {"lowrank (svd)", "lowrank (trained)", "cascade", "tuned, KL", "llama.cpp"}

    bench.made.clear()
    _run(bench, kept, tmp_path)
    assert {group for group, _ in bench.made} == {"lowrank (svd)", "cascade (svd)", "tuned, KL"}
    assert bench.run.STOPPED not in _missing(kept).values()
    bench.made.clear()
    _run(bench, kept, tmp_path)
    assert not bench.made


def test_half_a_group_is_none(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else --resume would take what there is for all of it."""

    def fails(*of: Any) -> Any:
        yield _budgeted(bench.run, "uniform 4")
        raise UsageError("the text is too short")

    table = bench.rows.Table({"predictors": {}})
    with monkeypatch.context() as failing:
        failing.setattr(bench.run, "tuned", fails)
        _run(bench, table, tmp_path)
    assert not table.find(group="tuned, KL")
    assert _missing(table)["tuned, KL"] == "the text is too short"
    _run(bench, table, tmp_path)
    assert len(table.find(group="tuned, KL")) == 1
    assert "tuned, KL" not in _missing(table)
