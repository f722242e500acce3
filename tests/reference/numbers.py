"""The number format (docs/design.md, 3): 16-bit codes of groups of weights, levels, int8 activations."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.reference.sums import LANES, fma, fold

F16, F32, F64 = np.float16, np.float32, np.float64
BLOCK = 64  # weights per activation group; records are padded to a multiple of it
STEP = 256  # records that share the scales of an exact sum, at most
TOP = F32(32512)  # the largest factor of an exact sum
TINY = F32(1e-30)  # numbers that are all below it become integers of 0
Array = NDArray[Any]


@dataclass(frozen=True)
class Coded:
    """A coded matrix of R records, each `width` long: G groups a record, padding included.

    codes: uint16 [R, G, group]; low and span: float16 [R, G]. A symmetric group has low = -s and span = s.
    """

    form: str
    width: int
    codes: Array
    low: Array
    span: Array

    @property
    def group(self) -> int:
        return int(self.codes.shape[2])


def encode(weights: Array, form: str = "affine", group: int = 64) -> Coded:
    """Codes float32 weights [R, width]. Raises ValueError where a group is not finite or beyond float16."""
    groups, real = _grouped(weights.astype(F64), group)
    if not np.isfinite(groups).all():
        raise ValueError("a weight is not finite")
    least, most = np.where(real, groups, np.inf).min(2), np.where(real, groups, -np.inf).max(2)
    least, most = np.where(np.isfinite(least), least, 0), np.where(np.isfinite(most), most, 0)
    if form == "symmetric":
        span = round_up(np.maximum(-least, most))
        low = -span
        position = _divide(groups, span) + 1, 32768
    else:
        low = -round_up(-least)
        span = round_up(most - low.astype(F64))
        position = _divide(groups - low[..., None].astype(F64), span), 65536
    codes = np.clip(np.floor(position[0] * position[1]), 0, 65535)
    codes = np.where(real & (span[..., None] != 0), codes, 0).astype(np.uint16)
    return Coded(form, weights.shape[1], codes, low, span)


def decode(coded: Coded, bits: int = 16, cell: int = 1) -> Array:
    """Weights at a level, float32 [R, width]; `cell` is twice the cell offset (1: the middle of a cell)."""
    steps = 2 * at_level(coded.codes, bits).astype(np.int64) + cell
    low, span = coded.low.astype(F32)[..., None], coded.span.astype(F32)[..., None]
    if coded.form == "symmetric":
        values = span * (steps - (1 << bits)).astype(F32) * F32(2.0**-bits)
    else:
        values = low + span * (steps.astype(F32) * F32(2.0 ** -(bits + 1)))
    return np.ascontiguousarray(values.reshape(len(values), -1)[:, : coded.width])


def at_level(codes: Array, bits: int) -> Array:
    """The upper `bits` bits of the codes."""
    return codes >> np.uint16(16 - bits)


def round_up(values: Array) -> Array:
    """The least float16 that is not below. Raises ValueError beyond the largest finite one."""
    with np.errstate(over="ignore"):
        nearest = values.astype(F16)
        raised = np.where(nearest.astype(F64) < values, np.nextafter(nearest, F16(np.inf)), nearest)
    if not np.isfinite(raised).all():
        raise ValueError("a group's scale is beyond float16")
    return raised


def quantise(x: Array) -> tuple[Array, Array]:
    """int8 activations: float32 [N, width] -> integers [N, B, 64] as float64 (exact), scales float32 [N, B].

    A block of zeros, or below 1e-30, has scale 0; a block that is not finite has scale NaN.
    """
    blocks = _grouped(x.astype(F32), BLOCK)[0]
    peak = np.abs(blocks).max(2)
    finite, still = np.isfinite(peak), peak < TINY
    safe = np.where(finite & ~still, peak, F32(127))
    whole = np.rint(np.where(np.isfinite(blocks), blocks, 0) * (F32(127) / safe)[..., None])
    scale = np.where(still, F32(0), np.where(finite, safe / F32(127), F32(np.nan)))
    return np.where((finite & ~still)[..., None], whole, 0).astype(F64), scale.astype(F32)


def cells(coded: Coded, bits: int) -> tuple[Array, Array]:
    """Size of a cell at a level and what code 0 decodes to, float32 [R, G] each."""
    low, span = coded.low.astype(F32), coded.span.astype(F32)
    if coded.form == "symmetric":
        step = span * F32(2.0**-bits)
        return step + step, F32(1 - 2**bits) * step
    step = span * F32(2.0 ** -(bits + 1))
    return step + step, low + step


def dot(coded: Coded, bits: int, x: Array) -> Array:
    """x [N, width] times every record by int8 activations, float32 [N, R]: integers are exact inside a group.

    Group g is added to lane g modulo 16, by rising g; the lanes are folded (`sums.fold`).
    """
    whole, scale = quantise(x)
    records, groups, group = coded.codes.shape
    whole = whole.reshape(len(x), groups, group)
    scale = np.repeat(scale, groups // scale.shape[1], axis=1)
    width, origin = cells(coded, bits)
    used = min(LANES, 1 << (groups - 1).bit_length())  # the tree over lanes of zeros changes nothing
    lanes = np.zeros((len(x), records, used), F32)
    for g in range(groups):
        units = (whole[:, g] @ at_level(coded.codes[:, g], bits).astype(F64).T).astype(F32)
        ones, sx = whole[:, g].sum(1, keepdims=True).astype(F32), scale[:, g : g + 1]
        lane = lanes[..., g % LANES]
        lane[:] = fma(width[:, g], units * sx, lane)
        lane[:] = fma(origin[:, g], ones * sx, lane)
    return fold(lanes)


def accumulate(coded: Coded, bits: int, x: Array, chunk: int, start: Array) -> Array:
    """`start` plus x [N, R] times the records, float32 [N, width]: chunks apart."""
    result = np.broadcast_to(start, (len(x), coded.width)).astype(F32)
    for begin in range(0, x.shape[1], chunk):
        records = slice(begin, min(begin + chunk, x.shape[1]))
        result = result + add_exact(coded, bits, x, records, np.zeros_like(result))
    return result


def add_exact(coded: Coded, bits: int, x: Array, records: slice, part: Array) -> Array:
    """`part` plus x [N, R] times some of the records, in steps of 256 records."""
    begin, end = records.start, records.stop
    cuts = [begin, *range(begin // STEP * STEP + STEP, end, STEP), end]
    for first, last in itertools.pairwise(cuts):
        part = part + _exact(coded, bits, x[:, first:last], slice(first, last))
    return part


def _exact(coded: Coded, bits: int, h: Array, records: slice) -> Array:
    """h [N, J] times J records with factors of 16 bits: exact integers, one scale a column and group."""
    width, origin = (of_all[records] for of_all in cells(coded, bits))
    products = h[..., None] * width  # [N, J, G]
    most = np.abs(products).max(1)
    share = np.where(most < TINY, F32(0), TOP / np.maximum(most, TINY))
    factors = np.rint(products * share[:, None]).transpose(2, 0, 1).astype(F64)
    codes = at_level(coded.codes[records], bits).transpose(1, 0, 2).astype(F64)
    dots = (factors @ codes).transpose(1, 0, 2).astype(F32)
    offset = np.zeros_like(most)
    for j in range(len(origin)):
        offset = fma(h[:, j : j + 1], origin[j], offset)
    result: Array = fma((most / TOP)[..., None], dots, offset[..., None])
    return result.reshape(len(h), -1)[:, : coded.width]


def _grouped(values: Array, group: int) -> tuple[Array, Array]:
    """Records cut into groups, padded with zeros to a whole block, and which entries are real."""
    rows, width = values.shape
    padded = np.pad(values, ((0, 0), (0, -width % BLOCK)))
    real = np.arange(padded.shape[1]) < width
    return padded.reshape(rows, -1, group), real.reshape(1, -1, group)


def _divide(groups: Array, span: Array) -> Array:
    return groups / np.where(span == 0, 1, span).astype(F64)[..., None]
