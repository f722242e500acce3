"""Opening whatever `convert` was given."""

from __future__ import annotations

from pathlib import Path

from m2cache_rs.config import user_path
from m2cache_rs.convert import hub, llama2c
from m2cache_rs.convert.checkpoint import Checkpoint
from m2cache_rs.convert.huggingface import open_directory
from m2cache_rs.errors import CheckpointError, UnsupportedError, UsageError

_PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")


def open_checkpoint(source: str | Path, tokenizer: str | Path | None = None) -> Checkpoint:
    """Opens a model directory, a hub id or a llama2.c file (`tokenizer` is for the last).

    Raises `CheckpointError`, `UnsupportedError`, `UsageError`.
    """
    path = hub.locate(str(source))
    if path.is_dir():
        if tokenizer is not None:
            raise UsageError(
                f"--tokenizer is for llama2.c files; {path} is a directory with a tokenizer of its own"
            )
        return open_directory(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is neither a directory nor a regular file")
    _refuse_other_formats(path)
    return llama2c.open_file(path, None if tokenizer is None else user_path(tokenizer))


def _refuse_other_formats(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"GGUF":
        raise UnsupportedError(
            f"{path} is a GGUF file, which is not read yet; convert the original checkpoint"
        )
    if path.suffix == ".safetensors":
        raise UsageError(f"{path} is one file of a model; pass its directory, which has the config.json")
    if start.startswith(_PICKLE):
        raise CheckpointError(
            f"{path} is a pickle, which runs code when read; save the model as safetensors first: "
            "transformers' model.save_pretrained(DIR, safe_serialization=True)"
        )
