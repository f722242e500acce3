"""The defaults of `convert` are what the measured table decides (docs/format-decision.md)."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from m2cache_rs.convert import convert

BENCHES = Path(__file__).resolve().parents[1] / "benches"


def test_the_defaults_follow_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHES / "quality")
    figures = import_module("results").load(BENCHES / "results/format-table.json")
    form, equalised = import_module("decision").decide(figures)
    default = {name: p.default for name, p in inspect.signature(convert).parameters.items()}
    assert form == f"{default['form']} {default['group']}"
    assert default["equalize"] is (equalised == "weights")
    assert default["calibration"] is None
