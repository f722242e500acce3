"""M2Cache's offline search (arXiv 2410.14740): the ratio of two levels that leaves the model surest.

For each pair of levels the share of the active set that gets the finer one rises in steps; the active set
is as large as the budget then allows, the same in every layer; the ratio whose predictions have the least
entropy is taken. No reference is needed. The paper's text was not at hand when this was written: this is the
search as docs/design.md sums it up, and it is here to be compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from m2cache_rs.tune.layers import Shares, of_active

PAIRS = ((16, 8), (16, 4), (8, 4))
STEPS = 10
# Shares of neurons are found to within this, and none is smaller.
SMALLEST = 2**-10


def bands(pair: tuple[int, int], fine: float) -> Shares:
    """A band of the finer level of a pair and one of the coarser, as shares of the active set."""
    of = {pair[0]: fine, pair[1]: 1 - fine}
    return of.get(16, 0.0), of.get(8, 0.0), of.get(4, 0.0)


def ratios(levels: tuple[int, ...]) -> Iterator[tuple[str, Shares]]:
    """All ratios of all pairs of `levels`, as a name and bands."""
    for pair in PAIRS:
        if set(pair) <= set(levels):
            for step in range(STEPS + 1):
                yield f"{pair[0]}/{pair[1]} bits, {step / STEPS:.0%}", bands(pair, step / STEPS)


def candidates(
    size: Callable[[Shares], float], budget: float, levels: tuple[int, ...] = (16, 8, 4)
) -> Iterator[tuple[str, Shares]]:
    """All `ratios`, each with the largest active set whose `size` fits the budget.

    `size`: bytes a token of a model whose layers all have these shares. Ratios without room for any neuron
    are left out.
    """
    for name, chosen in ratios(levels):
        active = largest(partial(_active_size, size, chosen), budget)
        if active > 0:
            yield name, of_active(active, chosen)


def _active_size(size: Callable[[Shares], float], chosen: Shares, active: float) -> float:
    return size(of_active(active, chosen))


def largest(size: Callable[[float], float], budget: float) -> float:
    """The largest share from 0 to 1 whose size fits; 0 where none does. Sizes rise with shares."""
    if size(1.0) <= budget:
        return 1.0
    least, most = 0.0, 1.0
    while most - least > SMALLEST:
        middle = (least + most) / 2
        least, most = (middle, most) if size(middle) <= budget else (least, middle)
    return least
