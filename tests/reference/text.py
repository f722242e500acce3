"""Held-out text: windows from the last 5 % of every file that the tale models were trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

FILES = (
    "alice29",
    "asyoulik",
    "bible",
    "book1",
    "plrabn12",
    "tinyshakespeare",
    "world192",
    "wikitext2-valid",
)
"""The last was never trained on; its last 5 % are taken all the same."""


def windows(
    shared: Path, tokenizer: Path, length: int, files: tuple[str, ...] = FILES
) -> Iterator[list[int]]:
    """The first `length` tokens of each file's held-out part."""
    encoder = Tokenizer.from_file(str(tokenizer))
    for name in files:
        held_out = (shared / "data/text" / f"{name}.txt").read_bytes()
        text = held_out[len(held_out) * 95 // 100 :].decode("utf-8", errors="replace")
        ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
        if len(ids) < length:
            raise ValueError(f"{name} has only {len(ids)} held-out tokens")
        yield ids[:length]
