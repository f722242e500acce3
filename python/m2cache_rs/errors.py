"""The exceptions of m2cache_rs: one tree, so that `except M2CacheError` catches all it raises on purpose.

A message says in one line what was wrong, where, and what to do: the command line prints it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any


class M2CacheError(Exception):
    """The root of every error this package raises on purpose."""


class UsageError(M2CacheError, ValueError):
    """An argument of the caller is wrong: a size, a precision, a path, a sampling setting."""


class UnsupportedError(M2CacheError):
    """A model, checkpoint or store asks for a feature that this version does not have."""


class CheckpointError(M2CacheError):
    """The source model is broken or incomplete."""


class StoreError(M2CacheError):
    """A rule of the store format is broken."""


class DamageError(StoreError):
    """Bytes of a store do not match their checksum."""


class StoreIOError(M2CacheError, OSError):
    """The operating system refused a file operation."""


class BudgetError(M2CacheError):
    """A cache or memory budget is too small; the message names the least that works.

    `ways`: arguments that make it need less, each with how: ("ctx", "a shorter {}").
    """

    def __init__(self, message: str = "", ways: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.message, self.ways = message, tuple(ways)

    def __str__(self) -> str:
        return self.told({name: name for name, _ in self.ways})

    def told(self, names: Mapping[str, str]) -> str:
        """The message, with the ways of those arguments that `names` has, by these names."""
        return "; ".join(filter(None, [self.message, less(self.ways, names)]))


def less(ways: Sequence[tuple[str, str]], names: Mapping[str, str]) -> str:
    """What needs less, in words: of all ways those that `names` has. Empty where it has none."""
    *first, last = [how.format(names[name]) for name, how in ways if name in names] or [""]
    listed = f"{', '.join(first)} or {last}" if first else last
    plural = bool(first) and last.startswith("fewer")
    return f"{listed} {'need' if plural else 'needs'} less" if last else ""


class NumericsError(M2CacheError):
    """A result is not a finite number."""


def integer(name: str, value: Any) -> int:
    """An integer of any kind. Raises `UsageError` for anything else."""
    try:
        return index(value)
    except TypeError:
        raise UsageError(f"{name} is {value!r}; an integer is needed") from None
