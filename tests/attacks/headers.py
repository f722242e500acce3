"""Safetensors headers that break a rule of the container, and what the error says."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.attacks.forge import join

TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def tensor(**changes: Any) -> dict[str, Any]:
    return TENSOR | changes


def one(**changes: Any) -> str:
    return json.dumps({"a": tensor(**changes)})


def two(begin: int, end: int, **first: Any) -> str:
    return json.dumps({"a": tensor(**first), "b": tensor(data_offsets=[begin, end])})


# Header text, bytes of data behind it, what the error says.
SIZED: dict[str, tuple[str | bytes, int, str]] = {
    "overlap": (two(4, 12), 12, "overlaps the tensor before it"),
    "the same place": (two(0, 8), 8, "overlaps the tensor before it"),
    "inside another": (two(8, 16, data_offsets=[0, 24], shape=[6]), 24, "overlaps the tensor before it"),
    "hole": (two(12, 20), 20, "leaves a hole before it"),
    "hole at the front": (one(data_offsets=[4, 12]), 12, "leaves a hole before it"),
    "data behind the last": (one(), 9, "the file holds 9 behind its header"),
    "data that is missing": (one(), 7, "the file holds 7 behind its header"),
    "no tensors but data": ("{}", 1, "the tensors take 0 bytes"),
    "end before begin": (one(data_offsets=[8, 0]), 8, "ends at 0, before it begins at 8"),
    "offsets of 2^64 - 1": (one(data_offsets=[2**64 - 9, 2**64 - 1]), 8, "leaves a hole before it"),
    "offset above 64 bits": (one(data_offsets=[0, 2**64]), 8, "invalid type: floating point"),
    "negative offset": (one(data_offsets=[-8, 0]), 8, "invalid value: integer `-8`"),
    "one offset": (one(data_offsets=[8]), 8, "invalid length 1"),
    "three offsets": (one(data_offsets=[0, 8, 16]), 8, "in \"a\""),
    "offset as text": (one(data_offsets=["0", "8"]), 8, "invalid type: string"),
    "offset as float": (one(data_offsets=[0.0, 8.0]), 8, "invalid type: floating point"),
    "shape of another size": (one(shape=[3]), 8, "cannot take 8 bytes"),
    "shape that overflows": (one(shape=[2**63, 2**63]), 8, "cannot take 8 bytes"),
    "shape that wraps to fit": (one(shape=[2**62 + 2]), 8, "cannot take 8 bytes"),
    "negative shape": (one(shape=[-2]), 8, "invalid value: integer `-2`"),
    "shape as number": (one(shape=2), 8, "a shape of at most 64 sizes"),
    "rank above 64": (one(shape=[1] * 65), 8, "invalid length 65"),
    "rank of a million": (one(shape=[1] * 1_000_000), 8, "invalid length 65"),
    "unknown dtype": (one(dtype="Q4_K"), 8, 'has the unknown dtype "Q4_K"'),
    "endless dtype": (one(dtype="Q\n" * 100_000), 8, "has the unknown dtype"),
    "dtype in lower case": (one(dtype="f32"), 8, 'has the unknown dtype "f32"'),
    "dtype as number": (one(dtype=32), 8, "invalid type: integer `32`"),
    "dtype of another width": (one(dtype="F64"), 8, "cannot take 8 bytes"),
    "field missing": ('{"a": {"dtype": "U8", "shape": [8]}}', 8, "missing field `data_offsets`"),
    "field unknown": (one(strides=[1]), 8, "unknown field `strides`"),
    "field twice": ('{"a": {"dtype": "U8", "dtype": "U8"}}', 8, "duplicate field"),
    "tensor twice": (f'{{"a": {json.dumps(TENSOR)}, "a": {json.dumps(TENSOR)}}}', 8, "is declared twice"),
    "empty tensor twice": (f'{{"a": {json.dumps(EMPTY)}, "a": {json.dumps(EMPTY)}}}', 0, "is declared twice"),
    "tensor is null": ('{"a": null}', 0, "invalid type: null"),
    "tensor is a list": ('{"a": []}', 0, "in \"a\""),
    "metadata twice": ('{"__metadata__": {}, "__metadata__": {}}', 0, "__metadata__ comes twice"),
    "metadata of numbers": ('{"__metadata__": {"a": 1}}', 0, "invalid type: integer `1`"),
    "metadata name twice": ('{"__metadata__": {"a": "1", "a": "2"}}', 0, "comes twice"),
    "metadata as list": ('{"__metadata__": []}', 0, "an object of strings"),
    "not an object": ("[]", 0, "is no JSON object of tensors"),
    "a number": ("7", 0, "is no JSON object of tensors"),
    "nothing": ("", 0, "is no JSON object of tensors"),
    "spaces": ("    ", 0, "is no JSON object of tensors"),
    "text behind": ("{} {}", 0, "trailing characters"),
    "zeros behind": (b"{}\0\0", 0, "trailing characters"),
    "a mark before": (b"\xef\xbb\xbf{}", 0, "is no JSON object of tensors"),
    "not UTF-8": (b'{"\xff": 1}', 0, "is not UTF-8"),
    "half a surrogate": (b'{"\\ud800": 1}', 0, "is no JSON object of tensors"),
    "UTF-16": ("{}".encode("utf-16"), 0, "is not UTF-8"),
    "NaN": ('{"a": NaN}', 0, "is no JSON object of tensors"),
    "a number without end": (one().replace("[2]", f"[{'9' * 100_000}]"), 8, "in \"a\""),
    "a float beyond all": (one().replace("[2]", "[1e999]"), 8, "number out of range"),
    "deep lists": ("[" * 1_000_000, 0, "is no JSON object of tensors"),
    "deep lists in a shape": ('{"a":{"shape":' + "[" * 1_000_000, 0, "in \"a\""),
    "deep objects": ('{"a":' * 500_000, 0, "in \"a\""),
    "deep metadata": ('{"__metadata__":' * 500_000, 0, "in \"__metadata__\""),
    "control characters": ('{"\\u001b[2J\\n": {"dtype": "U8"}}', 0, "missing field `shape`"),
}  # fmt: skip

WHOLE: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "the file ends inside the safetensors header"),
    "seven bytes": (b"\2\0\0\0\0\0\0", "the file ends inside the safetensors header"),
    "a length of 2^64 - 1": (
        struct.pack("<Q", 2**64 - 1) + b"{}",
        "the header claims 18446744073709551615 bytes",
    ),
    "a length of 2^63": (struct.pack("<Q", 2**63) + b"{}", "the header claims 9223372036854775808 bytes"),
    "a length of 100 MB and one": (
        struct.pack("<Q", 100_000_001) + b"{}",
        "the header claims 100000001 bytes",
    ),
    "a length of 100 MB": (struct.pack("<Q", 100_000_000) + b"{}", "but the file has 10 in all: truncated"),
    "a length beyond the end": (struct.pack("<Q", 3) + b"{}", "but the file has 10 in all: truncated"),
    "another kind of file": (b"GGUF\3\0\0\0" + bytes(24), "the header claims"),
}

FILES: dict[str, tuple[bytes, str]] = WHOLE | {
    name: (join(text if isinstance(text, bytes) else text.encode(), bytes(size)), message)
    for name, (text, size, message) in SIZED.items()
}
