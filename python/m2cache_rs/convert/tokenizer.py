"""Making the tokenizer.json that a checkpoint does not have."""

from __future__ import annotations

from pathlib import Path

from m2cache_rs.errors import CheckpointError

_SLOW = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def tokenizer_json(path: Path) -> bytes:
    """The tokenizer of a model directory, converted by transformers where that is installed.

    Raises `CheckpointError` saying how to make the file.
    """
    if not any((path / name).is_file() for name in _SLOW):
        raise CheckpointError(
            f"{path} has no tokenizer.json, nor a file to make one from ({', '.join(_SLOW)})"
        )
    try:
        from transformers import AutoTokenizer
    except ImportError as err:
        raise CheckpointError(
            f"{path} has no tokenizer.json; making one needs transformers: "
            "`pip install transformers sentencepiece`, then run this again"
        ) from err
    return _by_transformers(AutoTokenizer, path)


def _by_transformers(auto: type, path: Path) -> bytes:
    try:
        made = auto.from_pretrained(path, local_files_only=True, trust_remote_code=False)  # type: ignore[attr-defined]
        return str(made.backend_tokenizer.to_str(pretty=True)).encode()
    except Exception as err:  # transformers raises whatever its converters raise
        raise CheckpointError(
            f"{path} has no tokenizer.json, and transformers could not make one: {err}"
        ) from err
