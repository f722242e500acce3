"""A Hugging Face model directory as a checkpoint: config, safetensors (single or sharded), tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from m2cache_rs import _core
from m2cache_rs.convert.checkpoint import Checkpoint, closing_on_error, read_config
from m2cache_rs.convert.source import FileTensor, SourceFile, SourceTensor
from m2cache_rs.convert.target import MANIFEST
from m2cache_rs.convert.tokenizer import tokenizer_json
from m2cache_rs.errors import CheckpointError, StoreError
from m2cache_rs.models import architecture_of

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

ASSETS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that a store carries unchanged."""

_PICKLES = ("*.bin", "*.bin.index.json", "*.pth", "*.pt", "*.ckpt")


def open_directory(path: Path) -> Checkpoint:
    """Opens a local model directory.

    Raises `CheckpointError` for what is missing or broken, `UnsupportedError` for models that are not read.
    """
    if (path / MANIFEST).is_file():
        raise CheckpointError(f"{path} is a store already; give the model it was made from")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} is no model directory: it has no config.json")
    family, architecture = architecture_of(read_config(path / "config.json"), str(path / "config.json"))
    names = weight_files(path)
    assets: dict[str, Path | bytes] = {name: path / name for name in ASSETS if (path / name).is_file()}
    if "generation_config.json" in assets:
        read_config(path / "generation_config.json")
    if "tokenizer.json" not in assets:
        assets["tokenizer.json"] = tokenizer_json(path)
    files: list[SourceFile] = []
    with closing_on_error(files):
        files.extend(SourceFile.open(path / name) for name in names)
        tensors, headers = _tensors(files)
        return Checkpoint(path, "huggingface", family, architecture, tensors, tuple(files), headers, assets)


def weight_files(path: Path) -> list[str]:
    """Names of the files of weights: the single one, or those of the index. Raises `CheckpointError`."""
    if (path / SINGLE).is_file():
        return [SINGLE]
    if (path / INDEX).is_file():
        return _indexed(path)
    found = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if found:
        raise CheckpointError(
            f"{path} has its weights as pickles only ({found[0]}), which run code when read; save them as "
            "safetensors first: transformers' model.save_pretrained(DIR, safe_serialization=True)"
        )
    raise CheckpointError(f"{path} has neither {SINGLE} nor {INDEX}")


def _indexed(path: Path) -> list[str]:
    index = path / INDEX
    try:
        places = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (RecursionError, ValueError, KeyError, TypeError, AttributeError, OSError) as err:
        raise CheckpointError(f"{index} has no readable weight_map: {err!r}") from err
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", "."):
            raise CheckpointError(f"{index} names the file {name!r}, which is no plain file name")
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        count = f"{len(missing)} of {len(names)} files"
        raise CheckpointError(
            f"{path} lacks {count} that {INDEX} names, the first is {missing[0]}: fetch it again"
        )
    return names


def _tensors(files: list[SourceFile]) -> tuple[dict[str, SourceTensor], tuple[int, ...]]:
    tensors: dict[str, SourceTensor] = {}
    headers = []
    for file in files:
        header = _header(file)
        headers.append(min((begin for _, _, _, begin, _ in header), default=file.size))
        for name, dtype, shape, begin, _ in header:
            if name in tensors:
                raise CheckpointError(f"{file.path}: tensor {name} is in another file as well")
            tensors[name] = FileTensor(name, dtype, tuple(shape), file, begin)
    return tensors, tuple(headers)


def _header(file: SourceFile) -> list[tuple[str, str, list[int], int, int]]:
    try:
        return _core.read_header(str(file.path))
    except StoreError as err:
        raise CheckpointError(str(err)) from err
