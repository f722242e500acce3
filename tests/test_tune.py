"""The tuner on models whose costs are known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from m2cache_rs.errors import UsageError
from m2cache_rs.tune.frontier import Point
from m2cache_rs.tune.layers import FIXED_BANDS, UNIFORM, Shares, of_active
from m2cache_rs.tune.run import Tuner

UNITS = (12.0, 6.0, 3.0)  # of a layer whose neurons are all at 16, 8, 4 bits


class Known:
    """Costs that add up over layers, but for a share `together` of them; `ranking` bytes to rank neurons."""

    def __init__(self, weights: Sequence[float], together: float = 0.0, ranking: float = 0.0) -> None:
        self.layers, self.weights, self.together = len(weights), weights, together
        self.ranking = ranking
        self.measured = 0

    def point(self, how: str, shares: Sequence[Shares]) -> Point:
        self.measured += 1
        costs = [weight * _cost(one) for weight, one in zip(self.weights, shares, strict=True)]
        kl = sum(costs) * (1 + self.together * sum(cost > 0 for cost in costs))
        alike = [[one] * self.layers for one in UNIFORM.values()]
        bytes_ = size(shares) + (0 if list(shares) in alike else self.ranking)
        return Point(how, tuple(shares), kl, (kl, kl), 5 - kl, 1.0, bytes_, 0.0)


def _cost(shares: Shares) -> float:
    """Falls with every bit, steeply at first, and rises with what is left out."""
    out = 1 - sum(shares)
    return 2e-5 * shares[1] ** 2 + 7e-3 * shares[2] ** 3 + 0.1 * out**4


def size(shares: Sequence[Shares]) -> float:
    """Bytes as a `plane` recipe touches them: gate and up at 4 bits, and what is chosen."""
    return sum(2 + 10 * a + 4 * b + c for a, b, c in shares)


WEIGHTS = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=5)


@settings(deadline=None, max_examples=30)
@given(WEIGHTS, st.floats(0.0, 0.2), st.floats(3.0, 12.0))
def test_what_is_found_fits_and_is_beaten_by_nothing_that_is_known(
    weights: list[float], together: float, budget: float
) -> None:
    tuner = Tuner(Known(weights, together), size, planes=3)
    found = tuner.within(budget * len(weights))
    assert found.bytes <= budget * len(weights) * (1 + 1e-9)
    fixed = [of_active(share / 50, FIXED_BANDS) for share in range(1, 51)]
    for shares in [*UNIFORM.values(), *fixed]:
        if size([shares]) <= budget:
            other = tuner.meter.point("", [shares] * len(weights))
            assert found.kl <= other.kl * (1 + 1e-9) or abs(other.kl - found.kl) < 1e-4 * other.kl
    tuner.within(1.3 * budget * len(weights))
    assert tuner.within(budget * len(weights)) == found, "an answer rests on no other question"


@settings(deadline=None, max_examples=30)
@given(WEIGHTS, st.floats(0.0, 0.2), st.floats(1e-4, 0.1))
def test_a_cap_on_kl_is_kept_with_no_more_bytes_than_a_uniform_level(
    weights: list[float], together: float, kl: float
) -> None:
    tuner = Tuner(Known(weights, together), size, planes=3)
    found = tuner.at_most(kl)
    assert found.kl <= kl
    assert all(found.bytes <= p.bytes for p in tuner.uniform().values() if p.kl <= kl)


def test_tuned_points_lie_below_the_lines_between_uniform_levels() -> None:
    tuner = Tuner(Known([3.0, 1.0, 0.3]), size, planes=3)
    best, middle, coarse = tuner.uniform().values()
    for fine, rough in ((best, middle), (middle, coarse)):
        for part in (0.25, 0.5, 0.75):
            budget = rough.bytes + part * (fine.bytes - rough.bytes)
            assert tuner.within(budget).kl <= rough.kl + part * (fine.kl - rough.kl)


def test_entropy_takes_the_surest_ratio_whose_active_set_fills_the_budget() -> None:
    known = Known([1.0, 1.0])
    tuner = Tuner(known, size, planes=3, objective="entropy")
    found = tuner.within(10.0)
    assert found.how.startswith(("M2Cache's search", "uniform"))
    assert found.bytes <= 10.0
    assert all(found.entropy <= point.entropy for point in tuner.frontier() if point.bytes <= 10.0)
    assert known.measured <= tuner.steps(1) + len(tuner.levels)


def test_a_store_without_planes_is_tuned_within_what_it_has() -> None:
    tuner = Tuner(Known([1.0]), size, planes=2)
    assert tuner.levels == (8, 4)
    assert all(shares[0] == 0 for point in [tuner.within(4.0)] for shares in point.shares)


def test_what_cannot_be_reached_is_refused_with_what_can() -> None:
    known = Known([1.0, 2.0])
    tuner = Tuner(known, lambda shares: 100 * size(shares), planes=1)
    assert tuner.least == 2 * 225  # a quarter of the neurons at 4 bits
    with pytest.raises(UsageError, match="as few as 449 bytes a token; 450 is the least"):
        tuner.within(449)
    assert known.measured == 0
    for objective in ("kl", "entropy"):
        for planes in (1, 2, 3):
            tuner = Tuner(Known([1.0, 2.0], ranking=0.5), size, planes, objective, ranking=0.5)
            assert tuner.least - 0.01 < tuner.within(tuner.least).bytes <= tuner.least
            with pytest.raises(UsageError, match="is the least"):
                tuner.within(tuner.least - 1e-3)
    with pytest.raises(UsageError, match="the least found"):
        Tuner(Known([1.0]), size, planes=1).at_most(1e-9)
