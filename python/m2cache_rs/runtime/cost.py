"""What decode tokens touched, by the core's counters: each counted as if it were alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from m2cache_rs.models import Architecture
from m2cache_rs.plan.budget import Weights


@dataclass(frozen=True)
class FfnCost:
    """Of a mean decode token: bytes, `selector_bytes` of them to rank neurons; bits a weight of the FFN
    (8 x bytes / weights); and the share of the neurons that was computed at 16, 8 and 4 bits."""

    bytes_per_token: float
    selector_bytes_per_token: float
    bits_per_weight: float
    active: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "active": list(self.active)}


def touched(stats: Mapping[str, Any], weights: Weights) -> dict[str, float] | None:
    """Bytes that a mean decode token touched, by part, from `Model.stats()`; None without a decode token.

    Head and embedding are the same for every token: `weights` says what they are.
    """
    counted = {"attn": stats["attention"], "ffn": stats["ffn"]}
    if not all(one["tokens"] for one in counted.values()):
        return None
    branches = {part: one["touched_bytes"] / one["tokens"] for part, one in counted.items()}
    return {**branches, **{part: float(weights.parts[part]) for part in ("head", "embed")}}


def ffn_cost(counted: Mapping[str, Any], spec: Architecture) -> FfnCost | None:
    """From the counters `ffn` of `Model.stats()`; None without a decode token."""
    tokens = counted["tokens"]
    if not tokens:
        return None
    touched, selected = (counted[name] / tokens for name in ("touched_bytes", "selector_bytes"))
    first, second, third = (count / (tokens * spec.layers * spec.ffn) for count in counted["neurons"])
    return FfnCost(touched, selected, 8 * touched / ffn_weights(spec), (first, second, third))


def ffn_weights(spec: Architecture) -> int:
    """Weights of all layers' FFNs."""
    return spec.layers * len(spec.ffn_matrices) * spec.ffn * spec.hidden
