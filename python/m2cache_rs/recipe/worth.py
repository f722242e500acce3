"""Whether a text is long enough for what is made from it: to tell anything, and to replace what is there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from m2cache_rs.errors import M2CacheError, UsageError
from m2cache_rs.recipe import neurons, tuned
from m2cache_rs.recipe.profiles import read_json
from m2cache_rs.recipe.tensors import TensorFile

LEAST = 256
"""Tokens: the eight blocks of 32 that an interval of a KL takes (eval/scores), and shares of neurons to three
hundredths (their standard error is at most 1 / (2 sqrt 256))."""


def check_text(tokens: int, id: str, files: Iterable[Path]) -> None:
    """UsageError where so few tokens tell nothing, or one of the files of that store was made from more."""
    if tokens < LEAST:
        raise UsageError(
            f"{tokens} tokens of text are too few to tell anything: {LEAST} are the least (a longer --text "
            "or more --tokens; --force takes them all the same)"
        )
    for path in files:
        before = _tokens_of(path, id)
        if before > tokens:
            raise UsageError(
                f"{path} was made from {before} tokens, and {tokens} would replace it: a longer --text or "
                "more --tokens, or --force"
            )


def _tokens_of(path: Path, id: str) -> int:
    """How many tokens a file of profiles was made from: 0 where that is not known, or the file is none."""
    try:
        return int(_stated(path, id))
    except (M2CacheError, ValueError, TypeError):
        return 0


def _stated(path: Path, id: str) -> str | int:
    store = path.parent.parent
    if path == tuned.path_of(store):
        return max((one.measured.tokens for one in (tuned.load(store, id) or {}).values()), default=0)
    about = read_json(path, id, neurons.VERSION, "") or {} if path == neurons.path_of(store) else None
    about = TensorFile(path, "", id, "").about if about is None else about
    return str(about.get("tokens", 0))
