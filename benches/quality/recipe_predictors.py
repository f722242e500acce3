"""Low-rank predictors of a store, made by `m2cache profile` as a user makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("svd", "trained")


@dataclass(frozen=True)
class Predictors:
    """The names of those that are there; of the others, why not; and what `m2cache profile` said."""

    names: tuple[str, ...]
    reasons: dict[str, str]
    report: dict[str, Any]


def make(store: Path, text: Path, tokens: int) -> Predictors:
    """Makes the one that needs no training and, where torch is there, the trained one."""
    trained, why = _profile(store, text, tokens, "--trained")
    if trained is not None:
        return Predictors(KINDS, {}, trained)
    plain, why_none = _profile(store, text, tokens)
    if plain is not None:
        return Predictors(KINDS[:1], {KINDS[1]: why}, plain)
    return Predictors((), dict.fromkeys(KINDS, why_none), {})


def _profile(store: Path, text: Path, tokens: int, *flags: str) -> tuple[dict[str, Any] | None, str]:
    command = ["profile", str(store), "--text", str(text), "--tokens", str(tokens), "--json", *flags]
    command += ["--force"]  # a store that is measured again, and texts of any length
    done = subprocess.run([sys.executable, "-m", "m2cache_rs", *command], capture_output=True, text=True)
    if done.returncode == 0:
        return dict(json.loads(done.stdout)), ""
    return None, f"m2cache profile: {_last_words(done.stderr)}"


def _last_words(output: str) -> str:
    """An error of the command line without its frame."""
    lines = [line.strip(" │╭╮╰╯─") for line in output.splitlines()]
    said = [line for line in lines if line and not line.startswith(("Usage", "Try", "Error"))]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return " ".join(errors or said[-2:])[:300] or "no word"
