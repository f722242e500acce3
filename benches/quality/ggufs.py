"""A Llama checkpoint as a GGUF file and back, through the `gguf` package.

llama.cpp's `llama` graph rotates neighbouring pairs, Hugging Face rotates halves: the rows of q and k are
interleaved on the way out and put back on the way in.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from checkpoints import Checkpoint, Float
from gguf.quants import dequantize

_OUTER = {"embed": "token_embd", "norm.final": "output_norm", "head": "output"}
_LAYER = {
    "norm.attn": "attn_norm",
    "norm.ffn": "ffn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_BY_INPUT = ("o", "down")  # the reference holds these transposed, a record an input channel


@dataclass(frozen=True)
class Quantised:
    """A GGUF file: float32 values, and each matrix's type and stored bytes, by the reference's names."""

    checkpoint: Checkpoint
    types: dict[str, str]
    bytes: dict[str, int]

    @property
    def bits_per_weight(self) -> float:
        """Over all matrices, embedding and head included, norms not."""
        return 8 * sum(self.bytes.values()) / sum(self.checkpoint.matrices.values())


def gguf_name(name: str) -> str:
    """`3.up` -> `blk.3.ffn_up.weight`."""
    if name in _OUTER:
        return f"{_OUTER[name]}.weight"
    layer, part = name.split(".", 1)
    return f"blk.{layer}.{_LAYER[part]}.weight"


def row_lengths(checkpoint: Checkpoint) -> dict[str, int]:
    """Inputs of each matrix: the dimension along which GGUF cuts its blocks."""
    return {
        name: checkpoint.named[name].shape[0 if _part(name) in _BY_INPUT else 1]
        for name in checkpoint.matrices
    }


def write(checkpoint: Checkpoint, tokenizer: Path, target: Path) -> Path:
    """Writes `checkpoint` in float32 with a byte-level BPE `tokenizer.json`; returns `target`."""
    writer = gguf.GGUFWriter(target, "llama")
    _add_architecture(writer, checkpoint)
    _add_tokenizer(writer, json.loads(tokenizer.read_text()))
    for name, values in checkpoint.named.items():
        writer.add_tensor(gguf_name(name), _out(checkpoint, name, values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add_architecture(writer: gguf.GGUFWriter, checkpoint: Checkpoint) -> None:
    spec = checkpoint.architecture
    if spec.biases or spec.rope["type"] != "default":
        raise ValueError("only Llama checkpoints without biases and with plain rope are written")
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(spec.rope["theta"])
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_vocab_size(spec.vocab)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    special = sorted(token["id"] for token in tokenizer["added_tokens"] if token["special"])
    kinds = [gguf.TokenType.NORMAL] * len(vocabulary)
    for token in special:
        kinds[token] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(special[0])
    writer.add_eos_token_id(special[-1])
    writer.add_add_bos_token(False)


def read(path: Path, like: Checkpoint) -> Quantised:
    """Dequantises every tensor of a GGUF file. Raises ValueError for tensors that `like` does not have."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensors = {name: stored.pop(gguf_name(name)) for name in like.named}
    if stored:
        raise ValueError(f"{path}: unexpected tensors {sorted(stored)}")
    named = {
        name: _back(like, name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        for name, tensor in tensors.items()
    }
    return Quantised(
        dataclasses.replace(like, named=named),
        {name: tensors[name].tensor_type.name for name in like.matrices},
        {name: int(tensors[name].n_bytes) for name in like.matrices},
    )


def _out(checkpoint: Checkpoint, name: str, values: Float) -> Float:
    if _part(name) in _BY_INPUT:
        return np.ascontiguousarray(values.T)
    heads = _rotated_heads(checkpoint, name)
    return _swap(values, heads, 2, -1) if heads else values


def _back(checkpoint: Checkpoint, name: str, values: Float) -> Float:
    if _part(name) in _BY_INPUT:
        return np.ascontiguousarray(values.T)
    heads = _rotated_heads(checkpoint, name)
    return _swap(values, heads, -1, 2) if heads else values


def _part(name: str) -> str:
    return name.split(".", 1)[-1]


def _rotated_heads(checkpoint: Checkpoint, name: str) -> int:
    """Heads whose rows are rotated in this tensor; 0 for all but q and k."""
    spec = checkpoint.architecture
    heads: dict[str, int] = {"q": spec.heads, "k": spec.kv_heads}
    return heads.get(_part(name), 0)


def _swap(values: Float, heads: int, outer: int, inner: int) -> Float:
    """Turns the rows of each head from `[outer, inner]` order to `[inner, outer]`."""
    rows, columns = values.shape
    shape = [rows // heads // 2 if n == -1 else n for n in (outer, inner)]
    return values.reshape(heads, *shape, columns).swapaxes(1, 2).reshape(rows, columns)
