"""Cuts by threshold out of cuts by share: what scores have to reach, by a store's profile."""

from __future__ import annotations

from itertools import accumulate

from m2cache_rs.errors import UsageError
from m2cache_rs.recipe.cut import Above, Shares
from m2cache_rs.recipe.neurons import SELECTORS, SHARES, NeuronProfile, Threshold

# Shares are written with a few digits.
_NEAR = 1e-3


def above(profile: NeuronProfile, selector: str, shares: Shares, neurons: int) -> tuple[Above, ...]:
    """For every layer, thresholds that as many neurons reach on the profile's text as the shares say.

    `most` is what the profile says is rarely exceeded. UsageError where the profile has no threshold of the
    selector, or of a share that a band ends at.
    """
    if selector not in SELECTORS:
        raise UsageError(
            f"cut 'threshold' goes with select {' or '.join(SELECTORS)}, not with {selector!r}: of others a "
            "profile has no thresholds"
        )
    ends = [shares.active * end for end in accumulate(shares.bands)]
    used = [_known(end) if band > 0 else None for end, band in zip(ends, shares.bands, strict=True)]
    return tuple(_layer(profile, layer, selector, used, neurons) for layer in range(len(profile.layers)))


def _layer(
    profile: NeuronProfile, layer: int, selector: str, used: list[float | None], neurons: int
) -> Above:
    def of(share: float | None) -> Threshold | None:
        return None if share is None else profile.threshold(layer, selector, share)

    found = [of(share) for share in used]
    fine, middle, coarse = (None if one is None else one.score for one in found)
    most = max(one.most for one in found if one is not None)
    return Above((fine, middle, coarse), min(1.0, most / neurons))


def _known(share: float) -> float:
    """The profile's share that is meant."""
    nearest = min(SHARES, key=lambda one: abs(one - share))
    if abs(nearest - share) > _NEAR:
        known = ", ".join(f"{one:g}" for one in sorted(SHARES))
        raise UsageError(
            f"cut 'threshold' needs a threshold at a share of {share:.4g} of the neurons, where a band ends; "
            f"a profile has those at {known}"
        )
    return nearest
