"""What is asked of a search: a number of bytes, of bits, or a loss that may not be passed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from m2cache_rs.config import parse_size
from m2cache_rs.errors import UsageError


@dataclass(frozen=True)
class Goal:
    """One of: bytes of weights a decode token touches, bits per FFN weight, nats of KL a token."""

    bytes: float | None = None
    bits: float | None = None
    kl: float | None = None

    @classmethod
    def parse(
        cls, bytes_per_token: int | str | None, bits: float | None, max_kl: float | None
    ) -> Goal | None:
        """From the options of a command; None where none is given. UsageError."""
        given = [name for name, one in _named(bytes_per_token, bits, max_kl) if one is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are {len(given)} goals: one recipe has one")
        for name, one in (("--bits", bits), ("--max-kl", max_kl)):
            if one is not None and not (math.isfinite(one) and one > 0):
                raise UsageError(f"{name} is {one}; a number above 0 is needed")
        if not given:
            return None
        size = None if bytes_per_token is None else float(parse_size(bytes_per_token, "bytes-per-token"))
        return cls(size, bits, max_kl)


def _named(
    bytes_per_token: int | str | None, bits: float | None, max_kl: float | None
) -> list[tuple[str, float | int | str | None]]:
    return [("--bytes-per-token", bytes_per_token), ("--bits", bits), ("--max-kl", max_kl)]
