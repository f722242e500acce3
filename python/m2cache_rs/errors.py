"""The exceptions of m2cache_rs: one tree, so that `except M2CacheError` catches all it raises on purpose.

A message says in one line what was wrong, where, and what to do: the command line prints it as it is.
"""

from __future__ import annotations

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
    """A cache or memory budget is too small; the message names the least that works."""


class NumericsError(M2CacheError):
    """A result is not a finite number."""


def integer(name: str, value: Any) -> int:
    """An integer of any kind. Raises `UsageError` for anything else."""
    try:
        return index(value)
    except TypeError:
        raise UsageError(f"{name} is {value!r}; an integer is needed") from None
