"""The reference number format against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.reference import numbers

F32 = np.float32
FORMS = st.sampled_from(["symmetric", "affine"])
GROUPS = st.sampled_from([32, 64])
LEVELS = st.sampled_from([4, 8, 16])
MATRICES = hnp.arrays(
    F32,
    st.tuples(st.integers(1, 2), st.integers(1, 130)),
    elements=st.one_of(
        st.floats(-32000, 32000, width=32),
        st.floats(-(2.0**-20), 2.0**-20, width=32),
        st.sampled_from([0.0, -0.0, 1.0]),
    ),
)


def exact(x: np.floating) -> Fraction:
    return Fraction(float(x))


@settings(max_examples=60)
@given(MATRICES, FORMS, GROUPS)
def test_a_code_is_the_floor_of_the_exact_position(weights: np.ndarray, form: str, group: int) -> None:
    coded = numbers.encode(weights, form, group)
    for row, values in enumerate(weights):
        for i, w in enumerate(values):
            low, span = exact(coded.low[row, i // group]), exact(coded.span[row, i // group])
            width = 2 * span if form == "symmetric" else span
            position = (exact(w) - low) / width * 65536 if span else Fraction(0)
            code = int(coded.codes[row, i // group, i % group])
            # float64 may round a position that lies within 2^-36 of a step onto it
            assert code in {min(int(position + d), 65535) for d in (0, Fraction(1, 1 << 36))}


@settings(max_examples=60)
@given(MATRICES, FORMS, GROUPS, LEVELS, st.sampled_from([0, 1]))
def test_decoding_rounds_as_written(weights: np.ndarray, form: str, group: int, bits: int, cell: int) -> None:
    coded = numbers.encode(weights, form, group)
    decoded = numbers.decode(coded, bits, cell)
    for i in range(weights.shape[1]):
        low, span = coded.low[0, i // group], coded.span[0, i // group]
        step = 2 * int(coded.codes[0, i // group, i % group] >> (16 - bits)) + cell
        if form == "symmetric":
            expected = F32(float(exact(span) * Fraction(step - (1 << bits), 1 << bits)))
        else:
            expected = F32(low) + F32(float(exact(span) * Fraction(step, 1 << (bits + 1))))
        assert decoded[0, i] == expected


@settings(max_examples=60)
@given(MATRICES, FORMS, GROUPS, LEVELS)
def test_no_weight_is_clipped(weights: np.ndarray, form: str, group: int, bits: int) -> None:
    """Every weight lies in its cell: half a cell from the decoded value, up to roundings."""
    coded = numbers.encode(weights, form, group)
    span = np.repeat(coded.span.astype(np.float64), group, axis=1)[:, : weights.shape[1]]
    low = np.repeat(np.abs(coded.low.astype(np.float64)), group, axis=1)[:, : weights.shape[1]]
    half = span * (2.0**-bits if form == "symmetric" else 2.0 ** -(bits + 1))
    error = np.abs(numbers.decode(coded, bits).astype(np.float64) - weights)
    assert (error <= half + (span + low) * 2.0**-22).all()


@pytest.mark.parametrize("form", ["symmetric", "affine"])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_zero_group_decodes_to_zero(form: str, bits: int) -> None:
    weights = np.zeros((1, 128), F32)
    weights[0, 64:] = np.linspace(-1, 1, 64)
    assert not numbers.decode(numbers.encode(weights, form), bits)[0, :64].any()


@pytest.mark.parametrize("form", ["symmetric", "affine"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65520.0, -65520.0])
def test_groups_beyond_the_format_are_errors(form: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"finite|beyond float16"):
        numbers.encode(np.array([[1.0, value]], F32), form)


def test_scales_round_outwards() -> None:
    tiny = numbers.encode(np.array([[1e-10, -1e-9]], F32), "symmetric")
    assert tiny.span[0, 0] == np.float16(2**-24)
    affine = numbers.encode(np.array([[1.0001, 1.0002]], F32), "affine")
    assert affine.low[0, 0] == np.float16(1.0)
    assert float(affine.span[0, 0]) >= 1.0002 - 1.0


@settings(max_examples=40)
@given(
    hnp.arrays(F32, (3, 130), elements=st.floats(-100, 100, width=32)),
    hnp.arrays(F32, (2, 130), elements=st.floats(-100, 100, width=32)),
    FORMS,
    GROUPS,
    st.sampled_from([4, 8]),
)
def test_integer_dots_are_dots_of_decoded_numbers(
    weights: np.ndarray, x: np.ndarray, form: str, group: int, bits: int
) -> None:
    coded = numbers.encode(weights, form, group)
    whole, scale = numbers.quantise(x)
    decoded_x = (whole * scale[..., None]).reshape(2, -1)[:, :130]
    terms = decoded_x[:, None] * numbers.decode(coded, bits).astype(np.float64)
    reach = np.abs(coded.low.astype(np.float64)).max() + coded.span.max()
    size = np.abs(decoded_x).sum(1, keepdims=True) * reach
    assert (np.abs(numbers.dot(coded, bits, x) - terms.sum(2)) <= 1e-6 * size + 1e-30).all()


def test_activations_take_whole_numbers_up_to_127() -> None:
    x = np.linspace(-3, 3, 64, dtype=F32)[None]
    whole, scale = numbers.quantise(x)
    assert whole.min() == -127
    assert whole.max() == 127
    assert np.abs(whole[0, 0] * scale[0, 0] - x[0]).max() <= 0.5001 * scale[0, 0]


def test_still_and_broken_activations() -> None:
    x = np.zeros((2, 192), F32)
    x[0, 64] = 1e-31
    x[1, 128] = np.inf
    whole, scale = numbers.quantise(x)
    assert not scale[0].any()
    assert not whole.any()
    assert np.isnan(scale[1]).tolist() == [False, False, True]
    assert np.isnan(numbers.dot(numbers.encode(np.ones((1, 192), F32)), 8, x))[:, 0].tolist() == [False, True]
