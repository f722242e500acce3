"""The commands of `m2cache`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Annotated

import typer

from m2cache_rs.cli import output
from m2cache_rs.cli.convert import convert
from m2cache_rs.cli.doctor import doctor
from m2cache_rs.cli.eval import evaluate
from m2cache_rs.cli.generate import generate
from m2cache_rs.cli.inspect import inspect
from m2cache_rs.cli.plan import plan
from m2cache_rs.cli.profile import profile
from m2cache_rs.cli.tune import tune
from m2cache_rs.cli.verify import verify

# Plain help and errors: rich's boxes cost start-up time, and its markup must never read a model's text or a
# name.
app = typer.Typer(
    name="m2cache",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Run language models bigger than the memory you have, at 4, 8 or 16 bits from one copy on disk.",
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "convert": convert,
    "inspect": inspect,
    "verify": verify,
    "plan": plan,
    "generate": generate,
    "eval": evaluate,
    "profile": profile,
    "tune": tune,
    "doctor": doctor,
}


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors are a line and an exit code, and advise its own options."""
    names = signature(function).parameters
    return output.exit_codes({name: f"--{name.replace('_', '-')}" for name in names})(function)


for _name, _command in _COMMANDS.items():
    app.command(_name)(guarded(_command))


def _version(wanted: bool) -> None:
    if wanted:
        from m2cache_rs import __version__

        print(f"m2cache {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options in front of a command."""
    output.show_warnings()
