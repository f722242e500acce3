"""Importer of llama2.c's first .bin format (7 integers, then f32 weights) as a Llama checkpoint.

Its queries and keys hold rotary pairs side by side; they are read in half-split order.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2cache_rs.convert import llama2c_tokenizer
from m2cache_rs.convert.checkpoint import Checkpoint, closing_on_error
from m2cache_rs.convert.source import FileTensor, HalfSplit, SourceFile, SourceTensor
from m2cache_rs.errors import CheckpointError, UnsupportedError
from m2cache_rs.models import architecture_of

_HEADER = struct.Struct("<7i")
_MAGIC = 0x616B3432  # "ak42": the later versions, 2 being int8

_BOS, _EOS = llama2c_tokenizer.BOS, llama2c_tokenizer.EOS


@dataclass(frozen=True)
class Header:
    """Sizes as the file declares them; a negative vocabulary means that the head is stored."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    tied: bool

    @classmethod
    def parse(cls, path: Path, start: bytes) -> Header:
        """Reads the first 28 bytes. Raises `CheckpointError`, `UnsupportedError`."""
        if len(start) < _HEADER.size:
            raise CheckpointError(
                f"{path} is neither a model directory nor a llama2.c file: it has {len(start)} bytes"
            )
        values = _HEADER.unpack(start)
        if values[0] == _MAGIC:
            raise UnsupportedError(
                f"{path} is a llama2.c file of version {values[1]}; export it as version 0"
            )
        hidden, ffn, layers, heads, kv_heads, vocab, context = values
        header = cls(hidden, ffn, layers, heads, kv_heads, abs(vocab), context, vocab > 0)
        sane = all(0 < size < 1 << 24 for size in (hidden, ffn, layers, heads, kv_heads, abs(vocab), context))
        if not sane or hidden % heads or heads % kv_heads:
            raise CheckpointError(
                f"{path} is neither a model directory nor a llama2.c file, whose first bytes would be sizes: "
                f"here {header._words()}; name a directory with config.json and *.safetensors, or a "
                "llama2.c .bin"
            )
        return header

    def _words(self) -> str:
        return (
            f"a width of {self.hidden}, {self.layers} layers, {self.heads} heads ({self.kv_heads} of keys "
            f"and values), {self.vocab} tokens"
        )

    @property
    def head_dim(self) -> int:
        """Dimension of a head."""
        return self.hidden // self.heads

    def blocks(self) -> Iterator[tuple[str, int, tuple[int, ...]]]:
        """The file's blocks in order: tensor name (with {} for the layer), how many layers, shape of one."""
        hidden, ffn, layers, kv = self.hidden, self.ffn, self.layers, self.kv_heads * self.head_dim
        layer = "model.layers.{}."
        yield "model.embed_tokens.weight", 1, (self.vocab, hidden)
        yield layer + "input_layernorm.weight", layers, (hidden,)
        yield layer + "self_attn.q_proj.weight", layers, (hidden, hidden)
        yield layer + "self_attn.k_proj.weight", layers, (kv, hidden)
        yield layer + "self_attn.v_proj.weight", layers, (kv, hidden)
        yield layer + "self_attn.o_proj.weight", layers, (hidden, hidden)
        yield layer + "post_attention_layernorm.weight", layers, (hidden,)
        yield layer + "mlp.gate_proj.weight", layers, (ffn, hidden)
        yield layer + "mlp.down_proj.weight", layers, (hidden, ffn)
        yield layer + "mlp.up_proj.weight", layers, (ffn, hidden)
        yield "model.norm.weight", 1, (hidden,)
        yield "rope.cos_and_sin", 2, (self.context, self.head_dim // 2)
        if not self.tied:
            yield "lm_head.weight", 1, (self.vocab, hidden)

    def config(self) -> dict[str, Any]:
        """The same model as a Hugging Face configuration."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": _BOS,
            "dtype": "float32",
            "eos_token_id": _EOS,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.context,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-05,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
            "tie_word_embeddings": self.tied,
            "vocab_size": self.vocab,
        }


def open_file(path: Path, tokenizer: Path | None) -> Checkpoint:
    """Opens a llama2.c model; without `tokenizer`, tok<VOCAB>.bin or tokenizer.bin beside it.

    Raises `CheckpointError`, `UnsupportedError`.
    """
    files = [SourceFile.open(path)]
    with closing_on_error(files):
        header = Header.parse(path, os.pread(files[0].handle.fileno(), _HEADER.size, 0))
        tensors = _tensors(header, files[0])
        family, architecture = architecture_of(header.config(), str(path))
        assets = _assets(header, _tokenizer(path, tokenizer, header.vocab))
        return Checkpoint(
            path, "llama2.c", family, architecture, tensors, tuple(files), (_HEADER.size,), assets
        )


def _tensors(header: Header, file: SourceFile) -> dict[str, SourceTensor]:
    tensors: dict[str, SourceTensor] = {}
    at = _HEADER.size
    for pattern, count, shape in header.blocks():
        for layer in range(count):
            tensor = FileTensor(pattern.format(layer), "F32", shape, file, at)
            rotated = pattern.endswith(("q_proj.weight", "k_proj.weight"))
            tensors[tensor.name] = HalfSplit(tensor, header.head_dim) if rotated else tensor
            at += 4 * math.prod(shape)
    if at != file.size:
        raise CheckpointError(f"{file.path} has {file.size} bytes, but its llama2.c header asks for {at}")
    del tensors["rope.cos_and_sin"]  # both tables follow from theta 10000, which is all the format knows
    return tensors


def _tokenizer(path: Path, given: Path | None, vocab: int) -> Path:
    beside = [path.with_name(f"tok{vocab}.bin"), path.with_name("tokenizer.bin")]
    found = next((file for file in ([given] if given else beside) if file.is_file()), None)
    if found is None:
        tried = given or f"{beside[0].name} or {beside[1].name} beside {path}"
        raise CheckpointError(
            f"there is no tokenizer {tried}; name the model's tokenizer .bin with --tokenizer"
        )
    return found


def _assets(header: Header, tokenizer: Path) -> dict[str, Path | bytes]:
    generation = {"bos_token_id": _BOS, "eos_token_id": [_BOS, _EOS], "do_sample": False}
    made = {
        "config.json": header.config(),
        "generation_config.json": generation,
        "tokenizer.json": llama2c_tokenizer.tokenizer_json(tokenizer, header.vocab),
        "tokenizer_config.json": llama2c_tokenizer.config(header.context),
    }
    return {
        name: (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
        for name, value in made.items()
    }
