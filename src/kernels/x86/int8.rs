//! Int8 dots with AVX-512 VNNI: sixteen groups of a record at a time, the exact dot of each in its own lane, so that
//! scaling and summing are one vector expression in the order `project` states.

use super::super::lanes::{LANES, fold16};
use super::super::project::RowWork;
use super::load::{bytes, bytes32, floats, ints, signed, store};
use crate::config::Form;
use crate::quant::{Int8, Record, Rows, TILE};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Bytes of a nibble plane that sixteen blocks take.
const TILE_BYTES: usize = TILE * BLOCK / 2;

/// Codes of sixteen blocks, laid out as `Int8::codes`.
type Codes = [__m512i; TILE];

/// Scales of sixteen groups.
struct Scales {
    step: __m512,
    lo: __m512,
    bias: __m512i,
}

/// Whether this path computes the rows of `work`: int8 with a group per block.
pub fn takes(work: &RowWork) -> bool {
    work.int8().is_some() && work.rows.coding.group == BLOCK
}

/// Records `first..` of [`takes`] work; `out` is `[records][N]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn task(work: &mut RowWork, first: usize, out: &mut [f32]) {
    let Some(x) = work.inputs.int8.as_ref() else { return };
    let (rows, lanes) = (work.rows, work.lanes.as_mut_slice());
    match (rows.level, rows.coding.form) {
        (Level::L4, Form::Affine) => records::<false, true>(rows, x, lanes, first, out),
        (Level::L4, Form::Symmetric) => records::<false, false>(rows, x, lanes, first, out),
        (_, Form::Affine) => records::<true, true>(rows, x, lanes, first, out),
        (_, Form::Symmetric) => records::<true, false>(rows, x, lanes, first, out),
    }
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn records<const MID: bool, const AFFINE: bool>(
    rows: &Rows,
    x: &Int8,
    lanes: &mut [[f32; LANES]],
    first: usize,
    out: &mut [f32],
) {
    let count = x.codes.len() / x.tiles;
    for (r, out) in out.chunks_exact_mut(count).enumerate() {
        let record = rows.record(first + r);
        lanes[..count].fill([0.0; LANES]);
        for tile in 0..x.tiles {
            let codes = codes::<MID>(&record, tile);
            let scales = scales::<AFFINE>(rows, &record, tile);
            for (n, lanes) in lanes[..count].iter_mut().enumerate() {
                let at = n * x.tiles + tile;
                let (sums, sizes) = (ints(&x.sums[at]), floats(&x.scales[at]));
                let terms = terms::<AFFINE>(dots(&codes, &x.codes[at]), sums, sizes, &scales);
                store(lanes, _mm512_add_ps(floats(lanes), terms));
            }
        }
        for (out, lanes) in out.iter_mut().zip(&*lanes) {
            *out = fold16(*lanes);
        }
    }
}

/// The codes of a tile, zeros behind the record's end.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn codes<const MID: bool>(record: &Record, tile: usize) -> Codes {
    let nibble = _mm512_set1_epi8(0x0f);
    let mut codes = [_mm512_setzero_si512(); TILE];
    let mut spare = [None; 2];
    let [spare_base, spare_mid] = &mut spare;
    let base = whole::<TILE_BYTES>(record.codes[0], tile, spare_base).as_chunks().0;
    let mid = if MID { whole::<TILE_BYTES>(record.codes[1], tile, spare_mid).as_chunks().0 } else { &[] };
    for pair in 0..TILE / 2 {
        let b = bytes(&base[pair]);
        (codes[2 * pair], codes[2 * pair + 1]) = if MID {
            // Bits of the first operand where the mask has ones, else of the second.
            const SELECT: i32 = 0xca;
            let m = bytes(&mid[pair]);
            let low = _mm512_ternarylogic_epi32::<SELECT>(nibble, m, _mm512_slli_epi16::<4>(b));
            let high = _mm512_ternarylogic_epi32::<SELECT>(nibble, _mm512_srli_epi16::<4>(m), b);
            (low, high)
        } else {
            (_mm512_and_si512(b, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(b), nibble))
        };
    }
    codes
}

/// The bytes of a tile, each `N` long; the last is copied to where zeros follow it.
#[inline(always)]
fn whole<'a, const N: usize>(all: &'a [u8], tile: usize, spare: &'a mut Option<[u8; N]>) -> &'a [u8; N] {
    let rest = &all[tile * N..];
    rest.first_chunk().unwrap_or_else(|| spare.insert(padded(rest)))
}

#[cold]
fn padded<const N: usize>(rest: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    all[..rest.len()].copy_from_slice(rest);
    all
}

/// Scales of a tile, zeros behind the record's last group.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn scales<const AFFINE: bool>(rows: &Rows, record: &Record, tile: usize) -> Scales {
    let cell = i32::from(rows.coding.cells[rows.level as usize]);
    let bits = rows.level.bits();
    if AFFINE {
        let mut spare = None;
        let pairs = bytes(whole(record.scales, tile, &mut spare));
        let lo = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
        let range = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pairs)));
        return Scales { step: _mm512_mul_ps(range, inverse_power(bits + 1)), lo, bias: _mm512_set1_epi32(cell) };
    }
    let mut spare = None;
    let size = _mm512_cvtph_ps(bytes32(whole(record.scales, tile, &mut spare)));
    let bias = _mm512_set1_epi32(cell - (1 << bits));
    Scales { step: _mm512_mul_ps(size, inverse_power(bits)), lo: _mm512_setzero_ps(), bias }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn inverse_power(n: u32) -> __m512 {
    _mm512_set1_ps(f32::from_bits((127 - n) << 23))
}

/// Sixteen exact dots of 64 codes with 64 activations, in block order.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn dots(codes: &Codes, x: &[[i8; BLOCK]; TILE]) -> __m512i {
    let mut pairs = [_mm512_setzero_si512(); TILE / 2];
    for (p, pair) in pairs.iter_mut().enumerate() {
        let low = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[2 * p], signed(&x[2 * p]));
        *pair = _mm512_dpbusd_epi32(low, codes[2 * p + 1], signed(&x[2 * p + 1]));
    }
    gather(&pairs)
}

/// Sums of eight lanes each, lower and upper halves of eight registers, as sixteen lanes in order.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn gather(pairs: &[__m512i; 8]) -> __m512i {
    let two = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let four = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let low = four(two(pairs[0], pairs[1]), two(pairs[2], pairs[3]));
    let high = four(two(pairs[4], pairs[5]), two(pairs[6], pairs[7]));
    // Quarters of `low`: blocks 0 2 4 6 twice, then 1 3 5 7 twice; of `high` the next eight.
    let even_quarters = _mm512_shuffle_i32x4::<0x88>(low, high);
    let odd_quarters = _mm512_shuffle_i32x4::<0xdd>(low, high);
    let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    _mm512_permutexvar_epi32(order, _mm512_add_epi32(even_quarters, odd_quarters))
}

/// What sixteen groups add: `project::term` in every lane.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn terms<const AFFINE: bool>(dots: __m512i, sums: __m512i, sizes: __m512, s: &Scales) -> __m512 {
    let exact = _mm512_add_epi32(_mm512_add_epi32(dots, dots), _mm512_mullo_epi32(sums, s.bias));
    let exact = _mm512_cvtepi32_ps(exact);
    if AFFINE {
        let offset = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), s.lo);
        _mm512_mul_ps(_mm512_add_ps(_mm512_mul_ps(exact, s.step), offset), sizes)
    } else {
        _mm512_mul_ps(exact, _mm512_mul_ps(s.step, sizes))
    }
}
