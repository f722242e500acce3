"""What decode tokens touched of the FFN, by the core's counters: each counted as if it were alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from m2cache_rs.models import Architecture


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


def ffn_cost(
    counted: Mapping[str, Any], spec: Architecture, before: Mapping[str, Any] | None = None
) -> FfnCost | None:
    """From the counters `ffn` of `Model.stats()`, since those of `before`; None without a decode token."""
    tokens = counted["tokens"] - (before["tokens"] if before else 0)
    if not tokens:
        return None
    touched, selected = (
        (counted[name] - (before[name] if before else 0)) / tokens
        for name in ("touched_bytes", "selector_bytes")
    )
    neurons = [n - (before["neurons"][i] if before else 0) for i, n in enumerate(counted["neurons"])]
    first, second, third = (count / (tokens * spec.layers * spec.ffn) for count in neurons)
    return FfnCost(touched, selected, 8 * touched / ffn_weights(spec), (first, second, third))


def ffn_weights(spec: Architecture) -> int:
    """Weights of all layers' FFNs."""
    return spec.layers * len(spec.ffn_matrices) * spec.ffn * spec.hidden
