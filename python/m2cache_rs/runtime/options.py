"""How a model is opened, as far as it does not rest on the store: checked once, never changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.errors import UsageError, integer
from m2cache_rs.plan.shape import check_threads
from m2cache_rs.recipe.dial import RecipeLike
from m2cache_rs.recipe.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of `Model.open`, which says what they are. UsageError names one that is wrong."""

    verify: str = "first"
    act: str = "auto"
    threads: int | None = None
    kv: str = "f16"
    io: str = "auto"
    logit_rows: int = DECODE_BATCH

    def __post_init__(self) -> None:
        """Checks them."""
        choice("verify", self.verify, ("first", "always", "never"))
        choice("act", self.act, ("auto", "f32"))
        choice("kv", self.kv, ("f16", "f32"))
        choice("io", self.io, ("auto", "uring", "psync"))
        if not 1 <= self.logit_rows <= DECODE_BATCH:
            raise UsageError(f"logit_rows is {self.logit_rows}; it must lie in 1..{DECODE_BATCH}")
        check_threads(self.threads)

    @property
    def head_rows(self) -> int | None:
        """Rows that the head takes at once; None: all that are wanted."""
        return self.logit_rows if self.logit_rows < DECODE_BATCH else None


def choice(name: str, value: str, known: Sequence[str]) -> None:
    """UsageError unless `value` is known."""
    if value not in known:
        raise UsageError(f"{name} is {value!r}; it must be one of {', '.join(known)}")


def check_sequences(sequences: int) -> int:
    """UsageError where `sequences` is no count of them."""
    if integer("sequences", sequences) < 1:
        raise UsageError(f"sequences is {sequences}; it must be at least 1")
    return sequences


def several(serves: Any) -> Iterable[RecipeLike]:
    """UsageError where `serves` is one recipe, or none."""
    if isinstance(serves, str | os.PathLike | Mapping | Recipe) or not isinstance(serves, Iterable):
        raise UsageError(f"serves is {serves!r:.60}; a list of recipes, their files or their names is needed")
    return serves
