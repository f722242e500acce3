"""What a profile takes beside its model, so that a budget can set it aside."""

from __future__ import annotations

from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.eval.windows import PIECE
from m2cache_rs.models import Architecture
from m2cache_rs.predict.rank import default_rank, outputs

# By neuron: five frequencies and a sum of eight bytes, a rank; by layer: two tails.
_NEURON, _TAILS = 5 * 8 + 8 + 4, 2 * 74 << 10
# By neuron of a batch: two rankings with their keys, masks, |h| twice.
_BATCH = 80
# By input and its number: raw, normed, squared in f64 and as a sample.
_INPUT = 24
_TILES = 48 << 20
# torch, and by neuron of an input that a predictor is trained on: |h| twice.
_TORCH, _TARGET = 700 << 20, 8
_TOKENISING = 200


def profile_bytes(
    arch: Architecture, tokens: int, rank: int | None, kinds: tuple[str, ...], characters: int
) -> int:
    """Bytes at most, for a text of so many characters."""
    found = arch.layers * (arch.ffn * _NEURON + _TAILS) + DECODE_BATCH * arch.ffn * _BATCH
    found += _TOKENISING * min(characters, PIECE) + 4 * characters
    if kinds:
        width = (rank or default_rank(arch)) + 16
        found += (
            tokens * arch.hidden * _INPUT + _TILES + 6 * 8 * width * (outputs(arch) * arch.ffn + arch.hidden)
        )
    if "trained" in kinds:
        found += _TORCH + tokens * arch.ffn * _TARGET
    return found


def query_heads_bytes(arch: Architecture, tokens: int, characters: int) -> int:
    """The same of what chooses query heads."""
    fewer = min(tokens, arch.hidden)
    found = _TOKENISING * min(characters, PIECE) + 4 * characters + tokens * arch.hidden * _INPUT
    # The scales of heads, an eigensystem with its work space, and the targets of all layers.
    found += 4 * arch.layers * arch.heads * arch.head_dim**2 + 4 * 8 * fewer**2
    return found + 8 * arch.layers * tokens * arch.heads
