"""What a GGUF file's header says of its model, beside a store's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture

# Bases and epsilons are f32 in files, and in manifests.
_NEAR = 1e-6


def check(path: object, fields: Any, spec: Architecture) -> None:
    """UsageError where the header (`fields` of gguf's reader) is of another model, with what differs.

    Weights may be those of another training all the same: of that a header says nothing.
    """
    wrong = [f"{what} {theirs}, not {ours}" for what, theirs, ours in _both(fields, spec) if theirs != ours]
    if wrong:
        name = _value(fields, "general.name")
        named = f" ({name})" if isinstance(name, str) else ""
        raise UsageError(f"{path}{named} is another model than the store's: {'; '.join(wrong)}")


def _both(fields: Any, spec: Architecture) -> Iterator[tuple[str, Any, Any]]:
    """What is told of both: in words, in the file, in the store."""
    family = _value(fields, "general.architecture")
    yield "architecture", family, spec.family
    known = {
        "layers": ("block_count", spec.layers),
        "a width of": ("embedding_length", spec.hidden),
        "FFN neurons": ("feed_forward_length", spec.ffn),
        "query heads": ("attention.head_count", spec.heads),
        "KV heads": ("attention.head_count_kv", spec.kv_heads),
        "a head's width of": ("attention.key_length", spec.head_dim),
        "a vocabulary of": ("vocab_size", spec.vocab),
        "a rope base of": ("rope.freq_base", float(spec.rope["theta"])),
        "an epsilon of": ("attention.layer_norm_rms_epsilon", spec.norm_eps),
    }
    for what, (name, ours) in known.items():
        theirs = _value(fields, f"{family}.{name}")
        if isinstance(theirs, int | float):
            alike = math.isclose(theirs, ours, rel_tol=_NEAR)
            yield what, ours if alike else theirs, ours


def _value(fields: Any, name: str) -> Any:
    """None where the header says nothing."""
    field = fields.get(name)
    return None if field is None else field.contents()
