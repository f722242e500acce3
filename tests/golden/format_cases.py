"""The golden stores of the format, and how they are written: weights by formula, all sizes odd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from m2cache_rs._core import StoreWriter
from m2cache_rs.convert.encoding import Encoding, choose
from m2cache_rs.models import Architecture, architecture_of
from numpy.typing import NDArray

from tests.reference import tiny

Array = NDArray[Any]
FOLDER = Path(__file__).parent / "format"
SEED = 1
ASSETS = {"config.json": b'{"model_type": "llama"}\n', "tokenizer.json": "ein Stück Text\n".encode()}

_SMALL = {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 5, "vocab_size": 9}
_TIED = {"tie_word_embeddings": True}
_WHOLE = _SMALL | _TIED | {"num_attention_heads": 3, "attention_bias": True, "mlp_bias": True}
CASES: dict[str, tuple[dict[str, Any], tuple[str, int, str, str]]] = {
    "split-affine64": (
        _WHOLE,
        ("affine", 64, "all", "split"),
    ),
    "bundled-symmetric64": (_SMALL, ("symmetric", 64, "mid", "bundled")),
    "gated-symmetric32": (_SMALL | _TIED, ("symmetric", 32, "base", "gated")),
}
"""Changes to the tiny configuration, and form, group, planes and preset. Pages make even these large."""

_ALL = ("gate", "up", "down")
JOINED = tuple(
    tuple((matrix, plane) for matrix in matrices)
    for matrices, plane in ((_ALL[:2], "base"), (_ALL[2:], "base"), (_ALL, "mid"), (_ALL, "low"))
)
"""`split` as it was at first, all matrices in one section of mid and of low: it must stay readable."""


def architecture(case: str) -> Architecture:
    return architecture_of(tiny.CONFIG | CASES[case][0])[1]


def encoding(case: str) -> Encoding:
    chosen = choose(architecture(case), *CASES[case][1])
    return replace(chosen, sections=JOINED) if chosen.preset == "split" else chosen


def weights(case: str) -> dict[str, Array]:
    """Float32 weights, with a group of zeros, zeros among others, and a scale that underflows."""
    named = tiny.weights(architecture(case), SEED)
    named["embed"][0] = 0
    named["embed"][1, ::3] = 0
    named["embed"][2, :64] *= np.float32(1e-30)
    named["embed"][3, 64:] = np.float32(0.1)
    return named


def write(case: str, directory: Path) -> str:
    """Writes a golden store into an empty directory; returns its id."""
    for name, content in ASSETS.items():
        (directory / name).write_bytes(content)
    return write_store(directory, architecture(case), encoding(case).to_dict(), weights(case), sorted(ASSETS))


def write_store(
    directory: Path,
    arch: Architecture,
    encoding: Mapping[str, Any],
    named: Mapping[str, Array],
    assets: list[str],
) -> str:
    """Writes weights by the decoder's names as a store."""
    writer = StoreWriter(str(directory), arch.to_json(), json.dumps(encoding))
    for index, (file, _) in enumerate(writer.files()):
        layer = f"{index}." if index < arch.layers else ""
        groups = (*"qkvo", arch.ffn_matrices) if layer else ("embed",) if arch.tied else ("embed", "head")
        writer.begin(file)
        for group in groups:
            writer.records(0, "F32", {matrix: named[layer + matrix] for matrix in _tuple(group)})
        vectors = ("norm.attn", "norm.ffn", *(f"bias.{m}" for m in arch.biases)) if layer else ("norm.final",)
        for name in vectors:
            writer.vector(name, named[layer + name])
        writer.end()
    extra = {"generator": "golden", "source": None, "equalize": None, "synthetic": True, "assets": assets}
    return str(writer.finish(json.dumps(extra)))


def _tuple(group: str | tuple[str, ...]) -> tuple[str, ...]:
    return (group,) if isinstance(group, str) else group
