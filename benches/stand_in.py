"""A tokenizer for models that have none: any text becomes its bytes, any id becomes text."""

from __future__ import annotations

import json
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

UNKNOWN = "<unk>"


def tokens(vocab: int) -> list[str]:
    """`vocab` different tokens: the unknown one, the 256 bytes, then fillers, which no text becomes.

    A smaller vocabulary has as many bytes as fit; the others become the unknown token.
    """
    known = [UNKNOWN, *sorted(ByteLevel.alphabet())][:vocab]
    return known + [f"Ġw{index}" for index in range(len(known), vocab)]


def tokenizer_json(vocab: int) -> bytes:
    """The file as the `tokenizers` library reads it: byte-level BPE without merges."""
    model: dict[str, Any] = {
        "type": "BPE", "dropout": None, "unk_token": UNKNOWN, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {token: index for index, token in enumerate(tokens(vocab))}, "merges": [],
    }  # fmt: skip
    level: dict[str, Any] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    whole: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model,
    }  # fmt: skip
    return json.dumps(whole, ensure_ascii=False).encode()
