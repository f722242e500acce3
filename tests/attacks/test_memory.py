"""Claims cost nothing: what a file says about sizes is checked before memory is taken for it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks import forge
from tests.reference import format as document

MARGIN = 64 << 20
"""Address space and resident memory that an open may take: the headers of these stores are a few pages."""

CHILD = """
import resource, sys
from m2cache_rs import _core, errors

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))

action, path, margin = sys.argv[1], sys.argv[2], int(sys.argv[3])
limit = status("VmSize") + margin
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = status("VmHWM")
try:
    getattr(_core, action)(path)
    said = "opened"
except errors.M2CacheError as error:
    said = f"{type(error).__name__}: {error}"
print(status("VmHWM") - before, said[:2000])
"""


def run(action: str, path: Path, margin: int = MARGIN) -> str:
    """What opening `path` says in a process that can take `margin` bytes and no more."""
    command = [sys.executable, "-c", CHILD, action, str(path), str(margin)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    grown, said = done.stdout.split(" ", 1)
    assert int(grown) < margin
    return said.strip()


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 100_000_001, 100_000_000])
def test_a_header_claims_a_length(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    assert "StoreError" in run("read_header", path)


@pytest.mark.parametrize("size", [2**30, 2**40, 2**62])
def test_a_checkpoint_claims_a_tensor(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    header = {"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    path.write_bytes(forge.join(json.dumps(header).encode()))
    assert "the tensors take" in run("read_header", path)


@pytest.mark.parametrize(
    "text",
    [
        "[0," * 2_000_000,
        '{"a":{"shape":[' + "0," * 4_000_000,
        '{"a":{"dtype":"' + "x" * 8_000_000,
        '{"__metadata__":{"a":"' + "\\u0000" * 1_000_000 + '"}}',
        '{"' + "n" * 8_000_000 + '":1}',
        "{"
        + ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(150_000))
        + "}",
    ],
    ids=["lists", "a shape", "a dtype", "metadata", "a name", "tensors"],
)
def test_a_real_header_costs_a_few_times_its_length(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(forge.join(text.encode()))
    run("read_header", path, margin=100 << 20)


def enormous(store: Path, **sizes: int) -> None:
    """Makes the manifest claim these sizes, and every file as large as they ask: holes, no blocks on disk."""
    values = forge.manifest(store)
    values["architecture"] |= sizes
    for entry, layout in zip(
        values["files"], document.layouts(values["architecture"], values["encoding"]), strict=True
    ):
        names = [section.name for section in layout.sections] + [name for name, _ in layout.vectors]
        width, coding = values["architecture"]["hidden"], values["encoding"]["coding"]
        header = document.header(layout, width, coding, dict.fromkeys(names, "0" * 32))
        size = len(header) + layout.tensors()[-1][4]
        with (store / layout.name).open("wb") as file:
            file.write(header)
            file.truncate(size)
        records = sum(s.records for s in layout.sections for _, plane in s.parts if plane == "base")
        entry |= {"bytes": size, "weights": records * width, "digest": document.digest(header), "zeros": 0}
    forge.save(store, values)


@pytest.mark.parametrize(
    "sizes", [{"vocab": 2**24}, {"ffn": 2**24}, {"hidden": 2**20}, {"context": 2**24}, {"head_dim": 2**20}]
)
def test_a_store_of_enormous_files_costs_nothing_to_open(store: Path, sizes: dict[str, int]) -> None:
    enormous(store, **sizes)
    assert run("Store", store) == "opened"


def test_a_manifest_claims_many_layers(store: Path) -> None:
    values = forge.manifest(store)
    count = 2**14
    values["architecture"]["layers"] = count
    first, _, embed = values["files"]
    values["files"] = [first | {"name": f"layer-{i:05}.safetensors"} for i in range(count)] + [embed]
    forge.save(store, values)
    assert "layer-00001.safetensors: the header does not match" in run("Store", store)


@pytest.mark.parametrize("place", ["source", "roots", "assets", "format"])
def test_a_manifest_of_nothing_but_lists(store: Path, place: str) -> None:
    values = forge.manifest(store) | {place: [0] * 1_300_000}
    forge.save(store, values, seal=False)
    assert "StoreError" in run("Store", store, margin=256 << 20)
