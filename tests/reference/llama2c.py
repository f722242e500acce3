"""stories260K: the llama2.c checkpoint and tokenizer formats, read apart from the package's importer."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def load(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """A Hugging Face configuration and the float32 weights by the decoder's names."""
    data = path.read_bytes()
    dim, ffn, layers, heads, kv_heads, vocab, context = struct.unpack_from("<7i", data)
    values, at, tied = np.frombuffer(data, np.float32, offset=28), 0, vocab > 0
    head_dim, vocab = dim // heads, abs(vocab)

    def take(*shape: int) -> Array:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return values[at - size : at].reshape(shape)

    queries, keys = heads * head_dim, kv_heads * head_dim
    named = {"embed": take(vocab, dim)}
    stacks = {"norm.attn": take(layers, dim)}
    stacks["q"] = halves(take(layers, queries, dim), head_dim)
    stacks["k"] = halves(take(layers, keys, dim), head_dim)
    stacks["v"] = take(layers, keys, dim)
    stacks["o"] = take(layers, dim, queries).transpose(0, 2, 1)
    stacks["norm.ffn"] = take(layers, dim)
    stacks["gate"] = take(layers, ffn, dim)
    stacks["down"] = take(layers, dim, ffn).transpose(0, 2, 1)
    stacks["up"] = take(layers, ffn, dim)
    named["norm.final"] = take(dim)
    take(context, head_dim)  # cosines and sines of the rotary embedding
    if not tied:
        named["head"] = take(vocab, dim)
    for name, stack in stacks.items():
        named |= {f"{i}.{name}": np.ascontiguousarray(stack[i]) for i in range(layers)}
    return config(dim, ffn, layers, heads, kv_heads, vocab, context, tied), named


def config(
    dim: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int, context: int, tied: bool
) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }


def halves(rows: Array, head_dim: int) -> Array:
    """Rows of q or k [layers, heads * head_dim, dim] from pairs (2i, 2i+1) to (i, i + head_dim/2)."""
    layers, count, dim = rows.shape
    pairs = rows.reshape(layers, count // head_dim, head_dim // 2, 2, dim)
    return np.ascontiguousarray(pairs.swapaxes(2, 3)).reshape(rows.shape)


def vocabulary(path: Path) -> list[bytes]:
    """The text of every token, from a tokenizer.bin (tok512.bin)."""
    data, at, pieces = path.read_bytes(), 4, []
    while at < len(data):
        (size,) = struct.unpack_from("<i", data, at + 4)
        pieces.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return pieces


def text(pieces: list[bytes], ids: list[int]) -> str:
    """The text of tokens that follow BOS (id 1), whose first token loses its leading space."""
    joined = b"".join(
        bytes([int(p[3:5], 16)]) if p.startswith(b"<0x") else p for p in (pieces[i] for i in ids)
    )
    return joined.decode("utf-8").removeprefix(" ")
