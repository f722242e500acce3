"""The worked example of docs/format.md: one record, coded by hand in plain Python floats."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

DOCUMENT = Path(__file__).parents[2] / "docs/format.md"
BEGIN, END = "<!-- example: made by tests/golden/make_format.py -->\n", "<!-- end of example -->\n"
WIDTH = 72
SHOWN = (0, 1, 2, 30, 31, 32, 63, 64, 71)


def weights() -> list[float]:
    """Numbers from -0.3 to 0.41 as f32; number 30 is 0."""
    return [float(np.float32((37 * i % WIDTH - 30) / 100)) for i in range(WIDTH)]


def round_up(x: float) -> float:
    """The least f16 that is not below x."""
    bits = struct.unpack("<h", struct.pack("<e", x))[0]
    nearest = struct.unpack("<e", struct.pack("<h", bits))[0]
    if nearest < x:
        bits += -1 if bits < 0 else 1
    return float(struct.unpack("<e", struct.pack("<h", bits))[0])


class Record:
    """One record in one form, group 64."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.codes: list[int] = []
        self.scales: list[tuple[float, ...]] = []
        for begin in range(0, WIDTH, 64):
            group = weights()[begin : begin + 64]
            scales = self._scales(group)
            self.scales.append(scales)
            self.codes += [self._code(w, scales) for w in group]
        self.codes += [0] * (-WIDTH % 64)

    def _scales(self, group: list[float]) -> tuple[float, ...]:
        if self.form == "symmetric":
            return (round_up(max(map(abs, group))),)
        lo = -round_up(-min(group))
        return lo, round_up(max(group) - lo)

    def _code(self, w: float, scales: tuple[float, ...]) -> int:
        if self.form == "symmetric":
            cell = math.floor((w / scales[0] + 1) * 32768)
        else:
            cell = math.floor((w - scales[0]) / scales[1] * 65536)
        return min(max(cell, 0), 65535)

    def value(self, i: int, bits: int) -> float:
        """The decoded weight; every f32 rounding is written out."""
        f32, u, scales = np.float32, self.codes[i] >> (16 - bits), self.scales[i // 64]
        if self.form == "symmetric":
            return float(f32(2 * u + 1 - 2**bits) * f32(scales[0] * 2.0**-bits))
        return float(f32(scales[0]) + f32(2 * u + 1) * f32(scales[1] * 2.0 ** -(bits + 1)))

    def planes(self) -> dict[str, bytes]:
        """The record's bytes in every plane, without the padding up to the stride."""
        base, mid = (self._nibbles(shift) for shift in (12, 8))
        scales = b"".join(struct.pack("<e", s) for group in self.scales for s in group)
        return {"base": base + scales, "mid": mid, "low": bytes(c & 255 for c in self.codes)}

    def _nibbles(self, shift: int) -> bytes:
        nibbles = [c >> shift & 15 for c in self.codes]
        blocks = range(0, len(nibbles), 64)
        return bytes(nibbles[b + i] | nibbles[b + i + 32] << 4 for b in blocks for i in range(32))


def stored(payload: bytes) -> bytes:
    """A record as it lies in a section of its own: padded to the stride."""
    return payload + bytes(-len(payload) % 64)


def lines() -> Iterator[str]:
    """The block of the document."""
    for form in ("affine", "symmetric"):
        record = Record(form)
        yield f"**{form.capitalize()}, group 64.** "
        for g, scales in enumerate(record.scales):
            shown = zip(("lo", "R") if form == "affine" else ("s",), scales, strict=True)
            text = ", ".join(f"{name} = {s!r} (`{struct.pack('<e', s).hex()}`)" for name, s in shown)
            yield f"Group {g}: {text}. "
        yield "\n\n| i | weight | code | at 4 bits | at 8 bits | at 16 bits |\n" + "| --- " * 6 + "|\n"
        for i in SHOWN:
            values = " | ".join(f"{record.value(i, bits):.9g}" for bits in (4, 8, 16))
            yield f"| {i} | {weights()[i]:.9g} | `{record.codes[i]:04x}` | {values} |\n"
        yield "\n```\n"
        for plane, payload in record.planes().items():
            checksum = xxhash.xxh3_64_hexdigest(stored(payload))
            yield f"{plane}: {len(payload)} bytes, stride {len(stored(payload))}, xxh3-64 {checksum}\n"
            yield from (f"  {payload[i : i + 32].hex()}\n" for i in range(0, len(payload), 32))
        yield "```\n\n"


def block() -> str:
    """The example as the document has to show it."""
    return "".join(lines())


def replace() -> None:
    """Writes the example into the document."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    DOCUMENT.write_text(before + BEGIN + block() + END + rest.split(END)[1])
