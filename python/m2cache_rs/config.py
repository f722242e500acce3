"""What a caller chooses, parsed and validated once into plain structs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from m2cache_rs.errors import UsageError

LEVELS = (4, 8, 16)
PARTS = ("attn", "ffn", "head", "embed")
PLANES = ("base", "mid", "low")
# Prompt chunks end where the absolute position is a multiple of this, whatever was fed before.
PROMPT_CHUNK = 256
# Decode tokens whose logits are the same bits alone and together: as many as DECODE_BATCH in src/types.rs.
DECODE_BATCH = 32

_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?b?)", re.IGNORECASE | re.ASCII)
# Beyond the numbers that systems have for sizes.
_TOO_LARGE = 1 << 63
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(value: int | str, name: str = "size") -> int:
    """Bytes of `value`: a count, or a text such as `64MiB`, `1.5GB`, `512K`.

    `KB`, `MB`, `GB`, `TB` are powers of 1000; `KiB`... and the bare letters `K`... powers of 1024, as in
    llama.cpp. Raises UsageError, naming `name`.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return _possible(value, value, name)
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[3].lower() == "i" or (match[3].lower() == "ib" and not match[2]):
        raise UsageError(f"{name} {value!r} is no size; write bytes, or for example 64MiB, 1.5GB, 512K")
    step = 1000 if match[2] and match[3].lower() == "b" else 1024
    # Whole numbers exactly; one that is too long for that is too large as a float, too.
    number = int(match[1]) if match[1].isdigit() and len(match[1]) < 40 else float(match[1])
    return _possible(number * step ** _POWERS[match[2].lower()], value, name)


def _possible(size: float, shown: int | str, name: str) -> int:
    if size < 0:
        raise UsageError(f"{name} is {shown}; it cannot be negative")
    if size >= _TOO_LARGE:
        raise UsageError(f"{name} is {shown!s:.40}, which is more than any machine has (8388608 TiB)")
    return int(size)


def format_size(count: float) -> str:
    """`count` bytes for a reader: `17.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def user_path(path: str | Path) -> Path:
    """`path` with `~` and `~name` expanded, as a shell does where it is not quoted."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody of that name: the path is what it says
        return Path(path)


@dataclass(frozen=True)
class Precision:
    """Bits at which each part is read; None means the highest level the store holds."""

    attn: int | None = None
    ffn: int | None = None
    head: int | None = None
    embed: int | None = None

    def __post_init__(self) -> None:
        for part in PARTS:
            bits = getattr(self, part)
            if bits is not None and (isinstance(bits, bool) or bits not in LEVELS):
                raise UsageError(f"precision of {part} is {bits!r}; the levels are 4, 8 and 16 bits")

    @classmethod
    def parse(cls, value: PrecisionLike) -> Precision:
        """From None, 4 | 8 | 16 (every part), `"attn=8,ffn=4"`, or a mapping; parts left out are None.

        Raises UsageError for unknown parts and levels.
        """
        if value is None or isinstance(value, cls):
            return value or cls()
        if isinstance(value, Mapping):
            return cls._of_parts(value)
        if isinstance(value, str) and "=" in value:
            return cls._of_parts(_split_parts(value))
        bits = _bits(value, value)
        return cls(bits, bits, bits, bits)

    @classmethod
    def _of_parts(cls, parts: Mapping[str, Any]) -> Precision:
        for part in parts:
            if part not in PARTS:
                raise UsageError(f"precision names the part {part!r}; the parts are {', '.join(PARTS)}")
        return cls(**{part: _bits(bits, bits) for part, bits in parts.items()})

    def levels(self, planes: int) -> tuple[int, int, int, int]:
        """(attn, ffn, head, embed) bits in a store of that many planes; UsageError where one is missing."""
        best = LEVELS[planes - 1]
        for part in PARTS:
            bits = getattr(self, part)
            if bits is not None and bits > best:
                raise UsageError(
                    f"precision {part}={bits} needs the plane {PLANES[LEVELS.index(bits)]!r}, which this "
                    f"store lacks (it has up to {best} bits): ask for {best}, or convert with more --planes"
                )
        return tuple(getattr(self, part) or best for part in PARTS)  # type: ignore[return-value]


PrecisionLike = int | str | Mapping[str, int] | Precision | None


def _split_parts(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for item in text.split(","):
        part, equals, bits = (piece.strip() for piece in item.partition("="))
        if not equals or part in parts:
            raise UsageError(
                f"precision {text!r}: {item.strip()!r} is no new `part=bits`; write attn=8,ffn=4"
            )
        parts[part] = bits
    return parts


def _bits(value: Any, shown: Any) -> int:
    if isinstance(value, str) and value.strip() in {str(level) for level in LEVELS}:
        return int(value)
    if value in LEVELS and not isinstance(value, bool):
        return int(value)
    raise UsageError(
        f"precision {shown!r} is not known: 4, 8, 16, or per part, for example attn=8,ffn=4,head=8,embed=16"
    )


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy; the other defaults switch their filter off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 (greedy) or more")
        _check("top_k", self.top_k, self.top_k >= 0 and float(self.top_k).is_integer(), "a count, 0 for off")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (off)")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 (off) and 1")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 0 < penalty < math.inf, "above 0; 1 is off")

    @classmethod
    def resolve(cls, defaults: Mapping[str, Any], **flags: float | None) -> Sampling:
        """Flags over the model's generation config over greedy.

        Sampling is on when a flag asks for it (`temperature`, `top_k`, `top_p` or `min_p`, unless the
        temperature is 0) or, without such flags, when the generation config says `do_sample`. Then every
        setting is the flag, else the generation config's, else off (temperature 1). The repetition penalty
        also applies to greedy choice.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        asked = bool(given.keys() & {"temperature", "top_k", "top_p", "min_p"})
        sampled = given.get("temperature") != 0 and (asked or bool(defaults.get("do_sample")))
        names = [f.name for f in fields(cls)] if sampled else ["repetition_penalty"]
        chosen = {name: _number(name, given.get(name, defaults.get(name))) for name in names}
        start = asdict(cls(temperature=1.0 if sampled else 0.0))
        return cls(**{**start, **{name: value for name, value in chosen.items() if value is not None}})


def _number(name: str, value: Any) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise UsageError(f"{name} is {value!r}; it must be a number")


def _check(name: str, value: Any, holds: bool, rule: str) -> None:
    if not holds:
        raise UsageError(f"{name} is {value}; it must be {rule}")
