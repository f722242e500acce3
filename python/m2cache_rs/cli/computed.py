"""The options that say what is computed, alike in every command: the arguments of a `Dial`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from m2cache_rs.cli import options

_OPTIONS: dict[str, Any] = {
    "quality": options.Quality,
    "precision": options.Precision,
    "select": options.Select,
    "active": options.Active,
    "bands": options.Bands,
    "candidates": options.Candidates,
    "predictor": options.Predictor,
    "cut": options.Cut,
    "query_heads": options.QueryHeads,
    "prompt_bits": options.PromptBits,
    "recipe": options.Recipe,
}


def command(**instead: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that takes what is computed as one mapping, in `computed`: its options stand in that place.

    `instead`: other options than the usual, by name.
    """

    def of(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        kept, kind = list(signature.parameters.values()), inspect.Parameter.KEYWORD_ONLY
        at = [one.name for one in kept].index("computed")
        options = {**_OPTIONS, **instead}
        kept[at : at + 1] = [
            inspect.Parameter(name, kind, default=None, annotation=of) for name, of in options.items()
        ]

        @functools.wraps(function)
        def run(**given: Any) -> None:
            function(computed={name: given.pop(name) for name in options}, **given)

        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in kept}
        return run

    return of
