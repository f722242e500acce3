"""What an error advises can be done: every option that it names is one of the command's own."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from m2cache_rs.cli.app import _COMMANDS, guarded
from m2cache_rs.errors import BudgetError
from m2cache_rs.plan.budget import WAYS
from m2cache_rs.runtime.session import Model

from tests.stores import EXAMPLE, Shown

OPTION = re.compile(r"--[a-z][a-z-]+")
TEXT = EXAMPLE / "README.md"
NEEDED: dict[str, tuple[object, ...]] = {
    "generate": ("-p", "In the beginning", "--max-new-tokens", 4),
    "plan": (),
    "eval": ("--text", TEXT),
    "profile": ("--text", TEXT),
    "tune": ("--text", TEXT),
}
"""Commands that open a model, and what they cannot do without."""


def options_of(name: str, shown: Shown) -> set[str]:
    """What the help of a command lists."""
    return set(OPTION.findall(shown(name, "--help")[1]))


def test_every_command_that_has_a_cap_is_tried(shown: Shown) -> None:
    assert {name for name in _COMMANDS if "--dram" in options_of(name, shown)} == set(NEEDED)


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("asked", [("--dram", "1MiB"), ("--cache", "1KiB"), ("--threads", 1000)])
def test_a_refused_budget_names_options_of_its_command(
    name: str, asked: tuple[object, ...], tale: Path, shown: Shown
) -> None:
    known = options_of(name, shown)
    if str(asked[0]) not in known:
        pytest.skip(f"{name} has no {asked[0]}")
    code, _, err = shown(name, tale, *NEEDED[name], *asked)
    assert code == 2
    assert set(OPTION.findall(err)) <= known


@pytest.mark.parametrize("name", _COMMANDS)
@pytest.mark.parametrize("error", [MemoryError(), BudgetError("too small", WAYS)])
def test_every_command_advises_its_own_options(
    name: str, error: Exception, shown: Shown, capsys: pytest.CaptureFixture[str]
) -> None:
    known = options_of(name, shown)

    def fail(**arguments: object) -> None:
        raise error

    fail.__signature__ = inspect.signature(_COMMANDS[name])  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as ended:
        guarded(fail)()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    named = set(OPTION.findall(said))
    assert named <= known
    ways = (
        {"--precision", "--ctx", "--max-new-tokens"}
        if isinstance(error, BudgetError)
        else {"--dram", "--cache"}
    )
    assert named >= ways & known


def test_commands_are_run_with_their_own_options(
    monkeypatch: pytest.MonkeyPatch, shown: Shown, tale: Path
) -> None:
    """As the program registers them."""

    def refuse(*arguments: object, **options: object) -> Model:
        raise BudgetError("too small", WAYS)

    monkeypatch.setattr(Model, "open", refuse)
    for name, ways in (
        ("generate", "a lower --precision, a shorter --ctx or fewer --max-new-tokens need less"),
        ("eval", "a lower --precision or a shorter --ctx needs less"),
        ("tune", "a lower --precision needs less"),
    ):
        assert shown(name, tale, *NEEDED[name])[2] == f"m2cache: error: too small; {ways}\n"
    assert shown("profile", tale, *NEEDED["profile"])[2] == "m2cache: error: too small\n"


def test_in_python_arguments_are_named() -> None:
    told = "a lower precision, a shorter ctx or fewer max_new_tokens need less"
    assert str(BudgetError("too small", WAYS)) == f"too small; {told}"
    assert str(BudgetError("too small")) == "too small"
