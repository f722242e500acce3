"""Reading a checkpoint's config.json: every mistake is named with its field and file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m2cache_rs.errors import CheckpointError


@dataclass(frozen=True)
class Fields:
    """The values of a JSON object, read with their types checked.

    `default=None` means that the field must be there; JSON's null counts as absent, as transformers writes it.
    """

    values: Mapping[str, Any]
    file: str
    prefix: str = ""

    def wrong(self, name: str, need: str) -> CheckpointError:
        """The error for a field that is absent or not what is needed."""
        value = self.values.get(name)
        if value is None:
            return CheckpointError(f"{self.file}: {self.prefix}{name} is missing; {need} is needed")
        return CheckpointError(f"{self.file}: {self.prefix}{name} is {value!r}; {need} is needed")

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._get(name, default)
        if type(value) is not int or value < 1:
            raise self.wrong(name, "a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._get(name, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.wrong(name, "a number")
        return float(value)

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
        good = isinstance(value, list) and len(value) == length
        if not good or not all(type(x) in (int, float) and math.isfinite(x) and x > 0 for x in value):
            raise self.wrong(name, f"a list of {length} numbers above zero")
        return [float(x) for x in value]

    def section(self, name: str) -> Fields:
        """A nested object; an absent one is empty."""
        value = self._get(name, {})
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return Fields(value, self.file, f"{self.prefix}{name}.")

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        return default if value is None else value
