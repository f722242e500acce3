"""Runs a command line. Exit codes: 0 done, 1 verify found damage, 2 an error, 130 Ctrl-C."""

from __future__ import annotations

from m2cache_rs.cli import output


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
    output.note(f"error: {error.format_message()} (see {where} --help)")  # type: ignore[attr-defined]
    return output.ERROR
