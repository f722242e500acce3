"""Run by the peer's Python: writes a GGUF file of random weights, a piece at a time, at the disk's rate.

Reads one JSON object from stdin: {"path", "architecture", "kind", "tensors": [[name, rows, length, type]],
"tokens"}.
Weights have variance 1 / length and mean 0, gains are 1.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

import gguf
import numpy as np

from limits.peer.blocks import BLOCKS

PIECE = 16 << 20
# Standard deviation of a block's codes around their middle: uniform 4, 8 and 6 bits.
SPREAD = {"Q4_0": 4.64, "Q8_0": 73.9, "Q6_K": 18.47}


def main() -> None:
    """Writes the file under a temporary name, then renames it."""
    wish = json.load(sys.stdin)
    writer = gguf.GGUFWriter(wish["path"] + ".tmp", "llama")
    _metadata(writer, wish["architecture"], wish["kind"], wish["tokens"])
    for name, rows, length, kind in wish["tensors"]:
        _declare(writer, name, rows, length, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file, random = writer.fout[0], np.random.Generator(np.random.SFC64(0))
    for _, rows, length, kind in wish["tensors"]:
        writer.write_padding(file, file.tell())
        _write(file, random, rows, length, kind)
    writer.write_padding(file, file.tell())
    file.flush()
    os.fsync(file.fileno())
    writer.close()
    os.replace(wish["path"] + ".tmp", wish["path"])


def _metadata(writer: gguf.GGUFWriter, spec: dict[str, Any], kind: str, tokens: list[str]) -> None:
    writer.add_name("synthetic: random weights")
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_context_length(spec["context"])
    writer.add_embedding_length(spec["hidden"])
    writer.add_block_count(spec["layers"])
    writer.add_feed_forward_length(spec["ffn"])
    writer.add_head_count(spec["heads"])
    writer.add_head_count_kv(spec["kv_heads"])
    writer.add_key_length(spec["head_dim"])
    writer.add_value_length(spec["head_dim"])
    writer.add_layer_norm_rms_eps(spec["norm_eps"])
    writer.add_rope_dimension_count(spec["head_dim"])
    writer.add_rope_freq_base(spec["rope"]["theta"])
    writer.add_vocab_size(spec["vocab"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["Ġ w"])  # llama.cpp wants the list, the writer wants it not empty
    writer.add_add_bos_token(False)


def _declare(writer: gguf.GGUFWriter, name: str, rows: int, length: int, kind: str) -> None:
    if kind == "F32":
        writer.add_tensor_info(name, [length], np.dtype(np.float32), 4 * length)
        return
    values, size = BLOCKS[kind]
    row, type_ = length // values * size, gguf.GGMLQuantizationType[kind]
    writer.add_tensor_info(name, [rows, row], np.dtype(np.uint8), rows * row, raw_dtype=type_)


def _write(file: Any, random: np.random.Generator, rows: int, length: int, kind: str) -> None:
    if kind == "F32":
        file.write(np.ones(length, np.float32).data)
        return
    values, size = BLOCKS[kind]
    blocks, step = rows * length // values, PIECE // size
    for first in range(0, blocks, step):
        file.write(_blocks(random, min(step, blocks - first), length, kind).data)


def _blocks(random: np.random.Generator, count: int, length: int, kind: str) -> np.ndarray[Any, Any]:
    """Random codes; scales of one size and either sign, so that the mean of all weights is 0."""
    size = BLOCKS[kind][1]
    words = random.integers(0, (1 << 64) - 1, -(-count * size // 8), np.uint64, endpoint=True)
    blocks = words.view(np.uint8)[: count * size].reshape(count, size)
    scale = np.array([1 / (SPREAD[kind] * math.sqrt(length))], np.float16).view(np.uint8)
    if kind == "Q6_K":
        blocks[:, 192:208] = np.where(blocks[:, 192:208] & 1, 1, 255)  # int8 factors: 1 or -1
    at = 208 if kind == "Q6_K" else 0
    blocks[:, at] = scale[0]
    blocks[:, at + 1] = blocks[:, at + 1] & 0x80 | scale[1]
    return blocks


if __name__ == "__main__":
    main()
