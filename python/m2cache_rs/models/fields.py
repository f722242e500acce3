"""Reading the JSON of a checkpoint or a manifest: every mistake is named with its field and file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m2cache_rs.errors import CheckpointError, M2CacheError


@dataclass(frozen=True)
class Fields:
    """The values of a JSON object, read with their types checked.

    `default=None` means that the field must be there; null counts as absent, as transformers writes it.
    """

    values: Mapping[str, Any]
    file: str
    prefix: str = ""
    error: type[M2CacheError] = CheckpointError

    def wrong(self, name: str, need: str) -> M2CacheError:
        """The error for a field that is absent or not what is needed."""
        value = self.values.get(name)
        state = "missing" if value is None else repr(value)
        return self.error(f"{self.file}: {self.prefix}{name} is {state}; {need} is needed")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._get(name, default)
        if type(value) is not int or value < 1:
            raise self.wrong(name, "a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._get(name, default)
        if not _is_number(value):
            raise self.wrong(name, "a number")
        return float(value)

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number above zero."""
        value = self.number(name, default)
        if value <= 0:
            raise self.wrong(name, "a number above zero")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if type(value) is not bool:
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(name, default)
        if type(value) is not str:
            raise self.wrong(name, "a text")
        return value

    def numbers(self, name: str, length: int) -> list[float]:
        """A list of `length` finite numbers above zero."""
        value = self._get(name, None)
        if not isinstance(value, list) or len(value) != length or not all(_is_positive(x) for x in value):
            raise self.wrong(name, f"a list of {length} numbers above zero")
        return [float(x) for x in value]

    def section(self, name: str) -> Fields:
        """A nested object; an absent one is empty."""
        value = self._get(name, {})
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return Fields(value, self.file, f"{self.prefix}{name}.", self.error)

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        return default if value is None else value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0
