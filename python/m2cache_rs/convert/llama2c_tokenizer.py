"""llama2.c's tokenizer .bin as a tokenizer.json: BPE with byte fallback.

llama2.c joins, again and again, the neighbours whose joined piece has the best score. Ranking every way to
cut a piece in two by the piece's score gives the same ids, except where two cuts of one piece overlap ("ab a
ba"), which llama2.c settles from the left and ranks cannot. Control tokens written out in a text are
recognised here; llama2.c spells them letter by letter.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from m2cache_rs.errors import CheckpointError

UNK, BOS, EOS = 0, 1, 2
CONTROL = ("<unk>", "<s>", "</s>")
"""The first pieces. llama2.c files spell the last two with line breaks around them."""


def read_pieces(path: Path, vocab: int) -> list[tuple[str, float]]:
    """(piece, score) by id. Raises `CheckpointError` for a file that is not `vocab` pieces long."""
    data = path.read_bytes()
    pieces: list[tuple[str, float]] = []
    at = 4
    try:
        for _ in range(vocab):
            score, length = struct.unpack_from("<fi", data, at)
            end = at + 8 + length
            if length < 0 or end > len(data):
                raise CheckpointError(f"{path} ends inside piece {len(pieces)} of {vocab}: it is truncated")
            pieces.append((data[at + 8 : end].decode("utf-8"), score))
            at = end
    except struct.error as err:
        raise CheckpointError(f"{path} has {len(pieces)} pieces; the model has {vocab} tokens") from err
    except UnicodeDecodeError as err:
        raise CheckpointError(f"{path}: piece {len(pieces)} is not UTF-8: {err}") from err
    if at != len(data):
        raise CheckpointError(
            f"{path} goes on behind the {vocab} pieces of the model: it is of another model"
        )
    return pieces


def tokenizer_json(path: Path, vocab: int) -> dict[str, Any]:
    """The tokenizer as the `tokenizers` library reads it."""
    pieces = read_pieces(path, vocab)
    names = [*CONTROL, *(piece for piece, _ in pieces[len(CONTROL) :])][:vocab]
    ids = {name: index for index, name in enumerate(names)}
    if len(ids) != len(names):
        raise CheckpointError(f"{path} has the same piece twice, which tokenizer.json cannot express")
    model = {
        "type": "BPE", "dropout": None, "unk_token": CONTROL[UNK], "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": True, "ignore_merges": False,
        "vocab": ids, "merges": _merges(ids, [score for _, score in pieces]),
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_control(index, name) for index, name in enumerate(CONTROL)],
        "normalizer": {"type": "Prepend", "prepend": " "}, "pre_tokenizer": None,
        "post_processor": _begin_of_text(), "decoder": _decoder(), "model": model,
    }  # fmt: skip


def config(context: int) -> dict[str, Any]:
    """The tokenizer_config.json that goes with it."""
    return {
        "bos_token": CONTROL[BOS],
        "eos_token": CONTROL[EOS],
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": CONTROL[UNK],
    }


def _merges(ids: dict[str, int], scores: list[float]) -> list[list[str]]:
    pieces = sorted(
        (name for name in ids if name not in CONTROL), key=lambda name: (-scores[ids[name]], ids[name])
    )
    cuts = ((name[:at], name[at:]) for name in pieces for at in range(1, len(name)))
    return [[left, right] for left, right in cuts if _joins(ids, left) and _joins(ids, right)]


def _joins(ids: dict[str, int], piece: str) -> bool:
    return piece in ids and piece not in CONTROL


def _control(index: int, name: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": name, **flags}


def _begin_of_text() -> dict[str, Any]:
    token, text = (
        {"SpecialToken": {"id": CONTROL[BOS], "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    )
    pair = [token, text, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {CONTROL[BOS]: {"id": CONTROL[BOS], "ids": [BOS], "tokens": [CONTROL[BOS]]}}
    return {"type": "TemplateProcessing", "single": [token, text], "pair": pair, "special_tokens": special}


def _decoder() -> dict[str, Any]:
    steps = [
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return {"type": "Sequence", "decoders": steps}
