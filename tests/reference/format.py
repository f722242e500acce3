"""docs/format.md as a program: a store is read with numpy, and every rule of its bytes is checked on the way.

It knows nothing of the Rust core, and of the package nothing at all. A broken rule raises `BrokenRuleError`.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

Array = NDArray[Any]

PAGE, LINE, BLOCK, SWEEP = 4096, 64, 64, 64
PLANES = {"base": 32, "mid": 32, "low": 64}
"""Bytes that 64 codes take in a plane."""
IDENTITY = ("version", "features", "architecture", "encoding", "files", "assets")


class BrokenRuleError(Exception):
    """A rule of the format is broken."""


def must(holds: bool, rule: str) -> None:
    if not holds:
        raise BrokenRuleError(rule)


def canonical(value: Any) -> str:
    """The text of a JSON value that digests are taken of."""
    if isinstance(value, dict):
        entries = (f"{canonical(name)}:{canonical(value[name])}" for name in sorted(value))
        return "{" + ",".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        return "f" + struct.pack(">d", value).hex()
    return json.dumps(value, ensure_ascii=False)


def digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def store_id(manifest: dict[str, Any]) -> str:
    counted = {name: manifest[name] for name in IDENTITY}
    if isinstance(counted["features"], list):
        counted["features"] = [name for name in counted["features"] if name != "roots"]
    return digest(canonical(counted).encode())


def checksum(manifest: dict[str, Any]) -> str:
    return digest(canonical({k: v for k, v in manifest.items() if k != "checksum"}).encode())


@dataclass(frozen=True)
class Section:
    """Records of some matrices in some planes."""

    parts: tuple[tuple[str, str], ...]
    records: int
    sizes: tuple[int, ...]
    """Bytes of each part."""
    check: int
    """Records under one checksum."""

    @property
    def name(self) -> str:
        return "+".join(f"{matrix}.{plane}" for matrix, plane in self.parts)

    @property
    def stride(self) -> int:
        return -(-sum(self.sizes) // LINE) * LINE

    @property
    def checks(self) -> int:
        return -(-self.records // self.check)


@dataclass(frozen=True)
class Layout:
    """One file: vectors with their lengths, sections in order."""

    name: str
    vectors: tuple[tuple[str, int], ...]
    sections: tuple[Section, ...]

    def tensors(self) -> list[tuple[str, str, list[int], int, int]]:
        """(name, dtype, shape, begin, end) in file order."""
        found: list[tuple[str, str, list[int], int, int]] = []

        def put(name: str, dtype: str, shape: list[int], item: int) -> None:
            begin = found[-1][4] if found else 0
            found.append((name, dtype, shape, begin, begin + item * int(np.prod(shape))))

        def fill() -> None:
            gap = -found[-1][4] % PAGE
            if gap:
                put(f"filler.{sum(t[0].startswith('filler.') for t in found)}", "U8", [gap], 1)

        for section in self.sections:
            put(f"xxh3.{section.name}", "U64", [section.checks], 8)
        for name, length in self.vectors:
            put(name, "F32", [length], 4)
        for section in self.sections:
            fill()
            put(section.name, "U8", [section.records, section.stride], 1)
        fill()
        return found


def layouts(arch: dict[str, Any], encoding: dict[str, Any]) -> list[Layout]:
    """All files of a store."""
    wide, narrow = arch["heads"] * arch["head_dim"], arch["kv_heads"] * arch["head_dim"]
    records = {"q": wide, "k": narrow, "v": narrow, "o": wide}
    records |= dict.fromkeys(("gate", "up", "down"), arch["ffn"])
    records |= dict.fromkeys(("embed", "head"), arch["vocab"])
    stored = list(PLANES)[: encoding["planes"]]

    def section(parts: Any, check: int) -> Section:
        sizes = tuple(part_bytes(encoding["coding"], plane, arch["hidden"]) for _, plane in parts)
        return Section(tuple((m, p) for m, p in parts), records[parts[0][0]], sizes, check)

    def bias(name: str) -> tuple[str, int]:
        return f"bias.{name}", arch["hidden"] if name in ("o", "down") else records[name]

    attention = [section([(m, plane)], SWEEP) for plane in stored for m in "qkvo"]
    ffn = [section(parts, 1) for parts in encoding["ffn_sections"]]
    ends = [section([("embed", plane)], 1) for plane in stored]
    if not arch["tied"]:
        ends += [section([("head", plane)], SWEEP) for plane in stored]
    norms = (("norm.attn", arch["hidden"]), ("norm.ffn", arch["hidden"]), *map(bias, arch["biases"]))
    layers = [
        Layout(f"layer-{layer:05}.safetensors", norms, (*attention, *ffn)) for layer in range(arch["layers"])
    ]
    return [*layers, Layout("embed.safetensors", (("norm.final", arch["hidden"]),), tuple(ends))]


def part_bytes(coding: dict[str, Any], plane: str, width: int) -> int:
    blocks = -(-width // BLOCK)
    scales = blocks * (BLOCK // coding["group"]) * scale_bytes(coding)
    return blocks * PLANES[plane] + (scales if plane == "base" else 0)


def scale_bytes(coding: dict[str, Any]) -> int:
    return 2 if coding["form"] == "symmetric" else 4


def header(layout: Layout, width: int, coding: dict[str, Any], digests: dict[str, str]) -> bytes:
    """The header of a file whose tables and vectors have these digests."""
    sections = [
        {
            "name": s.name,
            "parts": s.parts,
            "records": s.records,
            "payload": sum(s.sizes),
            "stride": s.stride,
            "check": s.check,
            "digest": digests[s.name],
        }
        for s in layout.sections
    ]
    vectors = [{"name": name, "digest": digests[name]} for name, _ in layout.vectors]
    declared = {"version": 1, "width": width, "coding": coding, "sections": sections, "vectors": vectors}
    entries: dict[str, Any] = {"__metadata__": {"m2cache": compact(declared)}}
    for name, dtype, shape, begin, end in layout.tensors():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = compact(entries).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return struct.pack("<Q", len(text)) + text


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def spread(sizes: list[int], roots: int) -> list[int]:
    """The root of every file, layers first."""
    found = [layer % roots for layer in range(len(sizes) - 1)]
    sums = [sum(size for size, at in zip(sizes, found, strict=False) if at == root) for root in range(roots)]
    return [*found, sums.index(min(sums))]


def directories(path: Path, manifest: dict[str, Any]) -> list[Path]:
    """The directory of every file."""
    roots = [path / root for root in manifest["roots"]]
    must(manifest["roots"][0] == "." and len(set(manifest["roots"])) == len(roots), "roots")
    must(manifest["features"] == (["roots"] if roots[1:] else []), "features")
    for index, root in enumerate(roots[1:], start=1):
        marker = json.loads((root / "m2cache-root.json").read_text())
        must(marker == {"format": "m2cache-root", "id": manifest["id"], "root": index}, "marker")
    return [roots[at] for at in spread([entry["bytes"] for entry in manifest["files"]], len(roots))]


class Store:
    """A store. Matrices are named '0.q', '0.gate', ..., 'embed', 'head'; vectors '0.norm.attn', ..."""

    def __init__(self, path: Path) -> None:
        self.manifest = json.loads((path / "m2cache.json").read_text())
        must(self.manifest["format"] == "m2cache-store", "format")
        must(
            self.manifest["version"] == 1 and set(self.manifest["features"]) <= {"roots"}, "version, features"
        )
        must(self.manifest["id"] == store_id(self.manifest), "id")
        must(self.manifest["checksum"] == checksum(self.manifest), "checksum")
        self.architecture, self.encoding = self.manifest["architecture"], self.manifest["encoding"]
        self.width, self.coding = self.architecture["hidden"], self.encoding["coding"]
        self.parts: dict[str, dict[str, Array]] = {}
        self.vectors: dict[str, Array] = {}
        found = layouts(self.architecture, self.encoding)
        must([f["name"] for f in self.manifest["files"]] == [layout.name for layout in found], "files")
        places = directories(path, self.manifest)
        for entry, layout, place in zip(self.manifest["files"], found, places, strict=True):
            self._read(layout, entry, (place / layout.name).read_bytes())
        for asset in self.manifest["assets"]:
            content = (path / asset["name"]).read_bytes()
            must(asset["bytes"] == len(content) and asset["digest"] == digest(content), asset["name"])

    def _read(self, layout: Layout, entry: dict[str, Any], data: bytes) -> None:
        begin = 8 + struct.unpack_from("<Q", data)[0]
        tensors = {t[0]: data[begin + t[3] : begin + t[4]] for t in layout.tensors()}
        must(len(data) == entry["bytes"] == begin + layout.tensors()[-1][4], "size")
        digests = {s.name: digest(tensors[f"xxh3.{s.name}"]) for s in layout.sections}
        digests |= {name: digest(tensors[name]) for name, _ in layout.vectors}
        must(data[:begin] == header(layout, self.width, self.coding, digests), f"header of {layout.name}")
        must(digest(data[:begin]) == entry["digest"], "digest of the header")
        must(not any(any(b) for name, b in tensors.items() if name.startswith("filler.")), "filler")
        weights = sum(s.records for s in layout.sections for _, plane in s.parts if plane == "base")
        must(entry["weights"] == weights * self.width, "weights")
        layer = f"{int(layout.name[6:11])}." if layout.name.startswith("layer-") else ""
        for name, _ in layout.vectors:
            self.vectors[layer + name] = np.frombuffer(tensors[name], "<f4")
        for section in layout.sections:
            self._section(layer, section, tensors[section.name], tensors[f"xxh3.{section.name}"])

    def _section(self, layer: str, section: Section, data: bytes, table: bytes) -> None:
        unit = section.check * section.stride
        sums = [xxhash.xxh3_64_intdigest(data[i : i + unit]) for i in range(0, len(data), unit)]
        must(list(np.frombuffer(table, "<u8")) == sums, f"checksums of {section.name}")
        records = np.frombuffer(data, np.uint8).reshape(section.records, section.stride)
        must(not records[:, sum(section.sizes) :].any(), "padding of records")
        at = 0
        for (matrix, plane), size in zip(section.parts, section.sizes, strict=True):
            self.parts.setdefault(layer + matrix, {})[plane] = records[:, at : at + size]
            at += size

    def codes(self, matrix: str) -> Array:
        """Codes uint16 [records, blocks * 64]; bits of planes that are not stored are 0."""
        planes = self.parts[matrix]
        count = -(-self.width // BLOCK) * PLANES["base"]
        codes = nibbles(planes["base"][:, :count]) << 12
        if "mid" in planes:
            codes |= nibbles(planes["mid"]) << 8
        if "low" in planes:
            codes |= planes["low"]
        return codes

    def scales(self, matrix: str) -> Array:
        """float16 [records, groups, 1 or 2]: the scale, or lower end and range."""
        base = self.parts[matrix]["base"]
        area = np.ascontiguousarray(base[:, -(-self.width // BLOCK) * PLANES["base"] :])
        return area.view("<f2").reshape(len(base), -1, scale_bytes(self.coding) // 2)

    def values(self, matrix: str, bits: int) -> Array:
        """Weights float32 [records, width] at a level."""
        codes = self.codes(matrix) >> np.uint16(16 - bits)
        groups = codes.reshape(len(codes), -1, self.coding["group"]).astype(np.int32)
        cell = self.coding["cells"][{4: 0, 8: 1, 16: 2}[bits]]
        scales = self.scales(matrix).astype(np.float32)
        if self.coding["form"] == "symmetric":
            steps = (2 * groups + (cell - (1 << bits))).astype(np.float32)
            values = steps * (scales[..., :1] * np.float32(2.0**-bits))
        else:
            steps = (2 * groups + cell).astype(np.float32)
            values = scales[..., :1] + steps * (scales[..., 1:] * np.float32(2.0 ** -(bits + 1)))
        matrix_values: Array = values.reshape(len(codes), -1)[:, : self.width]
        return matrix_values


def nibbles(plane: Array) -> Array:
    """Byte i of a block holds code i in its lower and code i + 32 in its upper half."""
    halves = plane.reshape(len(plane), -1, 1, 32).astype(np.uint16)
    return np.concatenate([halves & 15, halves >> 4], axis=2).reshape(len(plane), -1)
