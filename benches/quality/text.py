"""Held-out text, cut into fixed windows of token ids.

The tale models were trained on the first 95 % of every file but `wikitext2-valid.txt`, which they never
saw: that one is read from its beginning, the others from their last 5 %.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

HELD_OUT_SHARE = 20  # one twentieth, as in training
UNSEEN_FILES = frozenset({"wikitext2-valid.txt"})
WINDOW = 512  # half of the models' context
WINDOWS_PER_FILE = 2
CALIBRATION_TOKENS = 512  # of each file
PIECE = 32  # tokens of one file that lie together in a text to train on


def held_out(path: Path) -> str:
    """The part of a file that the models were not trained on."""
    data = path.read_bytes()
    begin = 0 if path.name in UNSEEN_FILES else len(data) - len(data) // HELD_OUT_SHARE
    return data[begin:].decode("utf-8", errors="strict" if begin == 0 else "ignore")


def calibration(tokenizer: Path, directory: Path) -> NDArray[np.uint32]:
    """Token ids `[files, CALIBRATION_TOKENS]` from the beginnings of the files the models were trained on."""
    encode = Tokenizer.from_file(str(tokenizer)).encode
    heads = [
        path.read_bytes()[: 16 * CALIBRATION_TOKENS].decode("utf-8", errors="ignore")
        for path in sorted(directory.glob("*.txt"))
        if path.name not in UNSEEN_FILES
    ]
    rows = [encode(head, add_special_tokens=False).ids[:CALIBRATION_TOKENS] for head in heads]
    return np.asarray(rows, np.uint32)


def windows(tokenizer: Path, directory: Path, per_file: int = WINDOWS_PER_FILE) -> NDArray[np.uint32]:
    """Token ids `[windows, WINDOW]`: the first `per_file` windows of every `*.txt`, by name.

    Raises `ValueError` for a file whose held-out part is too short, so that no file weighs less unseen.
    """
    encode = Tokenizer.from_file(str(tokenizer)).encode
    rows = []
    for path in sorted(directory.glob("*.txt")):
        ids = encode(held_out(path), add_special_tokens=False).ids[: per_file * WINDOW]
        if len(ids) < per_file * WINDOW:
            raise ValueError(f"{path.name}: {len(ids)} held-out tokens, {per_file * WINDOW} are needed")
        rows.append(np.asarray(ids, np.uint32).reshape(per_file, WINDOW))
    if not rows:
        raise ValueError(f"{directory}: no *.txt files")
    return np.concatenate(rows)


def training(tokenizer: Path, directory: Path, tokens: int) -> str:
    """About `tokens` tokens from the beginnings of the files the models were trained on, in turn a piece of
    each, so that any beginning of the text has something of all."""
    encode = Tokenizer.from_file(str(tokenizer)).encode
    paths = [path for path in sorted(directory.glob("*.txt")) if path.name not in UNSEEN_FILES]
    rounds = -(-tokens // (len(paths) * PIECE))
    columns = []
    for path in paths:
        head = path.read_bytes()[: 16 * rounds * PIECE].decode("utf-8", errors="ignore")
        ends = [end for _, end in encode(head, add_special_tokens=False).offsets]
        cuts = [0, *(ends[PIECE * i - 1] for i in range(1, rounds + 1))]
        columns.append([head[first:last] for first, last in pairwise(cuts)])
    return "".join(piece for row in zip(*columns, strict=True) for piece in row)
