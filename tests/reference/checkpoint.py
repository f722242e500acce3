"""Hugging Face checkpoints on disk, written by hand (bf16 without torch) and read through safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from m2cache_rs.models import Architecture, Tensor, architecture_of, family_of
from numpy.typing import NDArray

Array = NDArray[Any]
Named = dict[str, Array]

_NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def load(directory: Path) -> tuple[dict[str, Any], Architecture, Named]:
    """The config, spec and float32 weights, by the decoder's names, of a checkpoint in one file or many."""
    config = json.loads((directory / "config.json").read_text())
    arch = architecture_of(config)[1]
    stored: Named = {}
    for path in sorted(directory.glob("*.safetensors")):
        stored |= {name: _to_f32(entry) for name, entry in safetensors.deserialize(path.read_bytes())}
    return config, arch, from_stored(arch, stored)


def save(
    directory: Path, config: Mapping[str, Any], named: Named, dtype: str = "F32", shards: int = 1
) -> None:
    """Writes config.json and model.safetensors, or `shards` files and their index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    stored = to_stored(architecture_of(config)[1], named)
    entries = {name: _entry(values, dtype) for name, values in stored.items()}
    if shards == 1:
        write(directory / "model.safetensors", entries)
        return
    names = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(entries)}
    for file in sorted(set(names.values())):
        part = {name: entry for name, entry in entries.items() if names[name] == file}
        write(directory / file, part)
    index = {
        "metadata": {"total_size": sum(len(entry["data"]) for entry in entries.values())},
        "weight_map": names,
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def write(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes a safetensors file of entries {dtype: 'BF16' ..., shape, data: bytes}."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, entry in entries.items():
        end = at + len(entry["data"])
        header[name] = {"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(e["data"] for e in entries.values()))


def tensors(arch: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint, with the decoder's name for it."""
    family = family_of(arch)
    yield from family.outer_tensors(arch).items()
    for layer in range(arch.layers):
        for name, tensor in family.layer_tensors(arch, layer).items():
            yield f"{layer}.{name}", tensor


def from_stored(arch: Architecture, stored: Named) -> Named:
    """A checkpoint's tensors by the decoder's names, as records."""
    return {name: _turned(stored[tensor.name], tensor) for name, tensor in tensors(arch)}


def to_stored(arch: Architecture, named: Named) -> Named:
    """The decoder's weights as a checkpoint holds them."""
    return {tensor.name: _turned(named[name], tensor) for name, tensor in tensors(arch)}


def to_bf16(values: Array) -> Array:
    """float32 to the bits of bf16, rounding half to even; finite values only."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    """The float32 values of bf16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _turned(values: Array, tensor: Tensor) -> Array:
    return np.ascontiguousarray(values.T) if tensor.columns else values


def _to_f32(entry: Mapping[str, Any]) -> Array:
    values = np.frombuffer(entry["data"], _NUMPY[entry["dtype"]]).reshape(entry["shape"])
    return from_bf16(values) if entry["dtype"] == "BF16" else values.astype(np.float32)


def _entry(values: Array, dtype: str) -> dict[str, Any]:
    stored = to_bf16(values) if dtype == "BF16" else values.astype(_NUMPY[dtype])
    return {"dtype": dtype, "shape": list(values.shape), "data": stored.tobytes()}
