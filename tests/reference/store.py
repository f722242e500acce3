"""A store read back with numpy and the safetensors library, apart from the package's reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from tests.reference.numbers import BLOCK, Coded, decode

Array = NDArray[Any]
LEVEL = {1: 4, 2: 8, 3: 16}
_DTYPES = {"U8": np.uint8, "F32": np.float32, "U64": np.uint64}
_BYTES = {"base": 32, "mid": 32, "low": 64}


def weights(store: Path) -> dict[str, Array]:
    """Float32 weights at the highest stored level, norms and biases, by the decoder's names."""
    found: dict[str, Array] = {}
    for layer, path in _files(store):
        found |= {layer + name: values for name, values in file_weights(path).items()}
    return found


def contents(store: Path) -> dict[str, Coded | Array]:
    """The coded matrices themselves, norms and biases, by the decoder's names."""
    found: dict[str, Coded | Array] = {}
    for layer, path in _files(store):
        vectors, coded = _file_contents(path)
        found |= {layer + name: values for name, values in vectors.items()}
        found |= {layer + name: codes for name, (codes, _) in coded.items()}
    return found


def file_weights(path: Path) -> dict[str, Array]:
    """The weights of one file."""
    vectors, coded = _file_contents(path)
    return vectors | {name: decode(codes, bits) for name, (codes, bits) in coded.items()}


def _files(store: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(store.glob("*.safetensors")):
        yield f"{int(path.stem[6:])}." if path.stem.startswith("layer-") else "", path


def _file_contents(path: Path) -> tuple[dict[str, Array], dict[str, tuple[Coded, int]]]:
    data = path.read_bytes()
    tensors = {name: _array(entry) for name, entry in safetensors.deserialize(data)}
    length = int.from_bytes(data[:8], "little")
    declared = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["m2cache"])
    vectors = {entry["name"]: tensors[entry["name"]] for entry in declared["vectors"]}
    return vectors, _coded(declared, tensors)


def _array(entry: dict[str, Any]) -> Array:
    return np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _coded(declared: dict[str, Any], tensors: dict[str, Array]) -> dict[str, tuple[Coded, int]]:
    width, coding = declared["width"], declared["coding"]
    blocks = -(-width // BLOCK)
    scale_bytes = blocks * (BLOCK // coding["group"]) * (2 if coding["form"] == "symmetric" else 4)
    planes: dict[str, dict[str, Array]] = {}
    for section in declared["sections"]:
        at = 0
        for matrix, plane in section["parts"]:
            size = blocks * _BYTES[plane] + (scale_bytes if plane == "base" else 0)
            planes.setdefault(matrix, {})[plane] = tensors[section["name"]][:, at : at + size]
            at += size
        assert at == section["payload"] <= section["stride"] == tensors[section["name"]].shape[1]
    return {matrix: (_join(found, width, coding), LEVEL[len(found)]) for matrix, found in planes.items()}


def _join(planes: dict[str, Array], width: int, coding: dict[str, Any]) -> Coded:
    blocks = -(-width // BLOCK)
    records = len(planes["base"])
    codes = _nibbles(planes["base"][:, : blocks * 32]) << 12
    if "mid" in planes:
        codes |= _nibbles(planes["mid"]) << 8
    if "low" in planes:
        codes |= planes["low"].astype(np.uint16)
    scales = np.ascontiguousarray(planes["base"][:, blocks * 32 :]).view(np.float16)
    if coding["form"] == "symmetric":
        low, span = -scales, scales
    else:
        low, span = scales[:, 0::2], scales[:, 1::2]
    return Coded(coding["form"], width, codes.reshape(records, -1, coding["group"]), low, span)


def _nibbles(plane: Array) -> Array:
    """Byte i of a block holds weight i in its low and weight i + 32 in its high half."""
    halves = plane.reshape(len(plane), -1, 1, 32).astype(np.uint16)
    return np.concatenate([halves & 15, halves >> 4], axis=2).reshape(len(plane), -1)
