"""What `llama-quantize ... Q4_0` or `Q8_0` makes of a shape: names, rows and types of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture

from limits.peer.blocks import BLOCKS

KINDS = {4: "Q4_0", 8: "Q8_0"}
"""Bits -> the file that is compared with."""
ALIGN = 32
_NAMES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


@dataclass(frozen=True)
class Tensor:
    """One tensor: `rows` of `length` values."""

    name: str
    rows: int
    length: int
    type: str

    @property
    def bytes(self) -> int:
        """Bytes in the file, without padding."""
        values, size = BLOCKS[self.type]
        return self.rows * self.length // values * size


def tensors(spec: Architecture, kind: str = "Q4_0") -> list[Tensor]:
    """Every tensor, in file order. Raises `UsageError` for what llama.cpp's `llama` graph cannot be asked."""
    if spec.activation != "silu" or not spec.gated:
        raise UsageError(
            f"llama.cpp's llama graph computes gated SiLU alone, not {spec.activation}: use --no-peer"
        )
    wide = spec.heads * spec.head_dim
    if any(length % 32 for length in (spec.hidden, spec.ffn, wide)):
        raise UsageError(f"{kind} cuts rows into blocks of 32, which do not fit this shape: use --no-peer")
    layers = (tensor for layer in range(spec.layers) for tensor in _layer(spec, layer, kind))
    return [*_outer(spec, kind), *layers]


def size(spec: Architecture, kind: str = "Q4_0") -> int:
    """Bytes of the tensors; a file has the vocabulary besides."""
    return sum(-(-tensor.bytes // ALIGN) * ALIGN for tensor in tensors(spec, kind))


def touched(spec: Architecture, kind: str) -> int:
    """Bytes that one decoded token touches: of an embedding that is not the head as well, one row."""
    every = tensors(spec, kind)
    rows = 0 if spec.tied else every[0].bytes - every[0].bytes // spec.vocab
    return sum(tensor.bytes for tensor in every) - rows


def _outer(spec: Architecture, kind: str) -> Iterator[Tensor]:
    """What makes the logits gets more than 4 bits, also where that is the embedding."""
    head = "Q6_K" if kind == "Q4_0" and spec.hidden % 256 == 0 else "Q8_0"
    yield Tensor("token_embd.weight", spec.vocab, spec.hidden, head if spec.tied else kind)
    yield Tensor("output_norm.weight", 1, spec.hidden, "F32")
    if not spec.tied:
        yield Tensor("output.weight", spec.vocab, spec.hidden, head)


def _layer(spec: Architecture, layer: int, kind: str) -> Iterator[Tensor]:
    for norm in ("attn_norm", "ffn_norm"):
        yield Tensor(f"blk.{layer}.{norm}.weight", 1, spec.hidden, "F32")
    for matrix in spec.layer_matrices:
        rows, length = spec.records(matrix), spec.hidden
        if matrix in ("o", "down"):
            rows, length = length, rows
        yield Tensor(f"blk.{layer}.{_NAMES[matrix]}.weight", rows, length, kind)
    for matrix in spec.biases:
        yield Tensor(f"blk.{layer}.{_NAMES[matrix]}.bias", 1, spec.bias_length(matrix), "F32")
