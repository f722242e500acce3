"""A budget of bytes spent on layers by what each byte gains: the lower hull of every layer, merged.

Where what layers cost in KL adds up, this is the best for every budget that it reaches exactly; what they
cost together is measured afterwards.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from m2cache_rs.tune.layers import Choice


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that are best for some price of a byte, from the fewest bytes up; KL falls along them."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.bytes, c.kl)):
        if kept and choice.kl >= kept[-1].kl:
            continue
        while len(kept) > 1 and _gain(kept[-2], kept[-1]) <= _gain(kept[-1], choice):
            kept.pop()
        kept.append(choice)
    return kept


def _gain(fewer: Choice, more: Choice) -> float:
    """Nats that a byte more saves."""
    return (fewer.kl - more.kl) / (more.bytes - fewer.bytes)


def allocations(layers: Sequence[Sequence[Choice]]) -> Iterator[list[Choice]]:
    """Choices for all layers, from the fewest bytes up: each step takes what gains most for a byte."""
    hulls = [hull(choices) for choices in layers]
    at = [0] * len(hulls)
    steps = [_step(hulls, layer, 0) for layer in range(len(hulls))]
    queue = [step for step in steps if step is not None]
    heapq.heapify(queue)
    yield [choices[0] for choices in hulls]
    while queue:
        _, layer = heapq.heappop(queue)
        at[layer] += 1
        following = _step(hulls, layer, at[layer])
        if following is not None:
            heapq.heappush(queue, following)
        yield [choices[i] for choices, i in zip(hulls, at, strict=True)]


def _step(hulls: Sequence[Sequence[Choice]], layer: int, at: int) -> tuple[float, int] | None:
    """The next step of a layer as a queue takes it: least first."""
    choices = hulls[layer]
    return (-_gain(choices[at], choices[at + 1]), layer) if at + 1 < len(choices) else None
