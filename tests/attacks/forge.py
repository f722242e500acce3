"""Stores with one thing wrong and everything else right: digests and id are made to fit what was changed."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m2cache_rs.convert.encoding import choose
from m2cache_rs.models import Architecture, architecture_of

from tests.golden.format_cases import ASSETS, write_store
from tests.reference import format as document
from tests.reference import tiny

Json = Any
DELETE = object()

CONFIG = tiny.CONFIG | {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 36,
    "intermediate_size": 7,
    "vocab_size": 11,
    "attention_bias": True,
}
"""Two layers; 72 records of q, so that sections have more than one checksum of 64 records."""

IDS = [3, 0, 10, 5]


def architecture() -> Architecture:
    return architecture_of(CONFIG)[1]


def write(
    path: Path, seed: int = 1, sections: str = "split", planes: str = "all", config: Json = CONFIG
) -> Path:
    """A sound store of affine groups of 64."""
    path.mkdir()
    for name, content in ASSETS.items():
        (path / name).write_bytes(content)
    arch = architecture_of(config)[1]
    encoding = choose(arch, "affine", 64, planes, sections).to_dict()
    write_store(path, arch, encoding, tiny.weights(arch, seed), sorted(ASSETS))
    return path


def copy(store: Path, to: Path) -> Path:
    shutil.copytree(store, to)
    return to


def manifest(store: Path) -> Json:
    return json.loads((store / "m2cache.json").read_text())


def save(store: Path, values: Json, seal: bool = True) -> None:
    """Writes a manifest; sealed, id and checksum fit it."""
    if seal:
        values["id"] = document.store_id(values)
        values["checksum"] = document.checksum(values)
    (store / "m2cache.json").write_text(json.dumps(values))


def change(values: Json, place: str, value: Json, separator: str = ".") -> None:
    """Sets (or deletes) the value at a dotted place such as 'files.0.bytes'."""
    *path, last = [int(step) if step.isdigit() else step for step in place.split(separator)]
    for step in path:
        values = values[step]
    if value is DELETE:
        del values[last]
    else:
        values[last] = value


def edit_manifest(store: Path, *changes: tuple[str, Json], seal: bool = True) -> None:
    values = manifest(store)
    for place, value in changes:
        change(values, place, value)
    save(store, values, seal)


def stripe(store: Path, *roots: str) -> list[Path]:
    """Spreads the files of a store over itself and these directories, which are made; returns all of them."""
    values = manifest(store)
    values |= {"features": ["roots"] if roots else [], "roots": [".", *roots]}
    places = [store / root for root in values["roots"]]
    spread = document.spread([entry["bytes"] for entry in values["files"]], len(places))
    for index, place in enumerate(places[1:], start=1):
        place.mkdir(parents=True)
        mark(place, values["id"], index)
    for entry, at in zip(values["files"], spread, strict=True):
        (store / entry["name"]).rename(places[at] / entry["name"])
    save(store, values)
    return places


def mark(root: Path, store_id: str, index: int) -> None:
    """Writes the marker of a root."""
    marker = {"format": "m2cache-root", "id": store_id, "root": index}
    (root / "m2cache-root.json").write_text(json.dumps(marker))


def split(data: bytes) -> tuple[bytes, bytes]:
    """Header text and the data behind it."""
    end = 8 + struct.unpack_from("<Q", data)[0]
    return data[8:end], data[end:]


def join(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def padded(text: str, size: int) -> bytes:
    """Header text of `size` bytes; it must fit."""
    encoded = text.encode()
    assert len(encoded) <= size, "the change made the header longer than its pages"
    return encoded + b" " * (size - len(encoded))


def edit_header(store: Path, name: str, edit: Callable[[Json, Json], None]) -> None:
    """Changes the entries and the m2cache metadata of a file's header, with a digest that fits."""
    text, _ = split((store / name).read_bytes())
    entries = json.loads(text)
    declared = json.loads(entries["__metadata__"]["m2cache"])
    edit(entries, declared)
    if "m2cache" in entries.get("__metadata__", {}):
        entries["__metadata__"]["m2cache"] = document.compact(declared)
    replace_header(store, name, document.compact(entries))


def replace_header(store: Path, name: str, text: str) -> None:
    """Puts another header text of the same length in place, with a digest that fits."""
    path = store / name
    before, data = split(path.read_bytes())
    header = padded(text, len(before))
    path.write_bytes(join(header, data))
    values = manifest(store)
    entry = next(f for f in values["files"] if f["name"] == name)
    entry["digest"] = document.digest(join(header))
    save(store, values)


def header_text(store: Path, name: str) -> str:
    return split((store / name).read_bytes())[0].decode().rstrip(" ")


def flip(path: Path, at: int, bits: int = 1) -> None:
    """Flips bits of one byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bits]))
