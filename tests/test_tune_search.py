"""The search of `m2cache tune`: pure, so it is held to brute force."""

from __future__ import annotations

from itertools import pairwise, product

from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs.tune.entropy import bands, candidates
from m2cache_rs.tune.frontier import Point, best_within, least_bytes, undominated
from m2cache_rs.tune.layers import UNIFORM, Choice, options
from m2cache_rs.tune.search import allocations, hull

NUMBERS = st.integers(1, 1000).map(float)
CHOICES = st.lists(
    st.builds(lambda kl, size: Choice((0.0, 0.0, 1.0), kl, size), NUMBERS, NUMBERS), min_size=1, max_size=6
)


def total(choices: list[Choice] | tuple[Choice, ...]) -> tuple[float, float]:
    return sum(c.bytes for c in choices), sum(c.kl for c in choices)


@given(CHOICES)
def test_a_hull_is_convex_and_nothing_lies_below_it(choices: list[Choice]) -> None:
    kept = hull(choices)
    for fewer, more in pairwise(kept):
        assert fewer.bytes < more.bytes
        assert fewer.kl > more.kl
    for price in (0.0, 0.1, 0.5, 1.0, 2.0, 10.0):
        assert min(c.kl + price * c.bytes for c in kept) == min(c.kl + price * c.bytes for c in choices)


@given(st.lists(CHOICES, min_size=1, max_size=4))
def test_no_other_allocation_beats_one_that_the_search_gives(layers: list[list[Choice]]) -> None:
    """At the bytes of each: brute force over all combinations."""
    every = [total(choices) for choices in product(*layers)]
    for found in allocations(layers):
        size, kl = total(found)
        assert kl <= min(other for bytes_, other in every if bytes_ <= size) + 1e-9


@given(st.lists(CHOICES, min_size=1, max_size=4))
def test_allocations_begin_with_the_fewest_bytes_and_end_with_the_least_kl(
    layers: list[list[Choice]],
) -> None:
    found = [total(choices) for choices in allocations(layers)]
    assert found[0][0] == sum(min(c.bytes for c in choices) for choices in layers)
    assert found[-1][1] == sum(min(c.kl for c in choices) for choices in layers)
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(found))


POINTS = st.lists(
    st.builds(lambda kl, size: Point("", (), kl, (kl, kl), -kl, 1.0, size, 4.0), NUMBERS, NUMBERS),
    max_size=20,
)


@given(POINTS, NUMBERS)
def test_what_answers_a_question_is_dominated_by_none(points: list[Point], limit: float) -> None:
    kept = undominated(points)
    for answer in (best_within(points, limit), least_bytes(points, limit)):
        if answer is not None:
            assert not any(
                (p.bytes < answer.bytes and p.kl <= answer.kl)
                or (p.bytes <= answer.bytes and p.kl < answer.kl)
                for p in points
            )
            assert (answer.bytes, answer.kl) in {(p.bytes, p.kl) for p in kept}
    assert (best_within(points, limit) is None) == all(p.bytes > limit for p in points)


def test_uniform_levels_are_members_as_far_as_they_are_stored() -> None:
    for planes, levels in ((1, [4]), (2, [8, 4]), (3, [16, 8, 4])):
        found = options(planes)
        assert [shares for shares in UNIFORM.values() if shares in found] == [UNIFORM[b] for b in levels]
        assert all(0 < sum(shares) <= 1 + 1e-12 for shares in found)
        assert len(set(found)) == len(found)


@given(st.floats(0.01, 20.0))
def test_every_ratio_has_the_largest_active_set_that_fits(budget: float) -> None:
    def size(shares: tuple[float, float, float]) -> float:
        return 2 + 10 * shares[0] + 4 * shares[1] + shares[2]

    found = dict(candidates(size, budget))
    for shares in found.values():
        assert size(shares) <= budget
        assert (
            sum(shares) > 0.999
            or size((1.01 * shares[0], 1.01 * shares[1], 1.01 * shares[2])) > budget - 0.02
        )
    assert len(found) == (33 if budget > 2.02 else 0) or 2 < budget <= 2.02
    assert set(dict(candidates(size, budget, (8, 4)))) == {name for name in found if name.startswith("8/4")}


def test_bands_of_a_pair_are_shares_of_the_active_set() -> None:
    assert bands((16, 4), 0.25) == (0.25, 0.0, 0.75)
    assert bands((8, 4), 1.0) == (0.0, 1.0, 0.0)
