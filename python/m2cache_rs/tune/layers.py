"""What a layer's FFN can be: shares of its neurons at 16, 8 and 4 bits; the rest is left out."""

from __future__ import annotations

from dataclasses import dataclass

Shares = tuple[float, float, float]
"""Of all neurons of a layer, the highest ranked first: at 16, at 8 and at 4 bits."""

UNIFORM: dict[int, Shares] = {16: (1.0, 0.0, 0.0), 8: (0.0, 1.0, 0.0), 4: (0.0, 0.0, 1.0)}

# M2Cache's bands of the active set as its paper uses them throughout.
FIXED_BANDS = (0.25, 0.25, 0.5)

# Whole layers of two neighbouring levels, then layers that leave neurons out. Few, since each is measured in
# every layer; the search mixes them over layers.
_MIXED = [(0.0, p, 1 - p) for p in (0.1, 0.25, 0.5, 0.75)] + [(p, 1 - p, 0.0) for p in (0.1, 0.25, 0.5)]
_ACTIVE = (0.7, 0.5, 0.35, 0.25)
_BANDS = ((0.0, 0.0, 1.0), (0.0, 0.25, 0.75), (0.0, 0.5, 0.5), (0.0, 1.0, 0.0), FIXED_BANDS)


@dataclass(frozen=True)
class Choice:
    """What a layer may be, and what was measured with this layer alone changed from the best there is.

    `kl`: nats a token above the best; `bytes`: of weights a token, of this layer.
    """

    shares: Shares
    kl: float
    bytes: float


def of_active(active: float, bands: Shares) -> Shares:
    """Bands of an active share, as shares of all neurons."""
    return (active * bands[0], active * bands[1], active * bands[2])


def options(planes: int) -> list[Shares]:
    """What is tried in every layer of a store with that many planes; uniform levels among them."""
    sparse = [of_active(active, bands) for active in _ACTIVE for bands in _BANDS]
    every = [*UNIFORM.values(), *_MIXED, *sparse]
    return [shares for shares in every if _finest(shares) < planes]


def _finest(shares: Shares) -> int:
    """Planes above the first that the shares read."""
    return 2 if shares[0] else 1 if shares[1] else 0
