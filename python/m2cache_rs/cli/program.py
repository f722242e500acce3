"""Runs a command line. Exit codes: 0 done, 1 verify found damage, 2 an error, 130 Ctrl-C."""

from __future__ import annotations

import re

from m2cache_rs.cli import output

# What newer versions of typer say of `--seed abc` is their validator's text.
_NUMBER = re.compile(r": Input should be a valid (integer|number).*", re.DOTALL)


def main(arguments: list[str]) -> int:
    """Runs one command line; its exit code, unless a command ends the program itself."""
    output.make_streams_safe()
    try:
        with output.exit_codes():
            from m2cache_rs.cli.app import app

            ended = _ended(app(args=arguments or ["--help"], prog_name="m2cache", standalone_mode=False))
            return ended if arguments else output.ERROR
    except Exception as error:
        # Bad usage. The classes live in click or in typer's own copy of it, depending on typer's version.
        if not hasattr(error, "format_message"):
            raise
        return _bad_usage(error)


def _ended(code: object) -> int:
    """typer turns Ctrl-C outside of a command into a return value."""
    if code == output.INTERRUPTED:
        output.note("interrupted")
    return code if isinstance(code, int) else 0


def _bad_usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "m2cache"
    message = _NUMBER.sub(r": it must be of type \1", error.format_message())  # type: ignore[attr-defined]
    output.note(f"error: {message} (see {where} --help)")
    return output.ERROR
