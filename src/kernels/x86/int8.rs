//! Int8 dots with AVX-512 VNNI: sixteen groups of a record at a time, the exact dot of each in its own lane, so that
//! scaling and summing are one vector expression in the order `project` states.

use super::super::lanes::{LANES, fold16};
use super::super::project::{RowWork, TASK};
use super::load::{bytes, floats, ints, prefetch, signed, store};
use super::scales::{Scales, bias, scales, whole};
use crate::config::Form;
use crate::quant::{Int8, Record, Rows, TILE};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Bytes of a nibble plane that sixteen blocks take.
const TILE_BYTES: usize = TILE * BLOCK / 2;

/// Inputs from which on a tile's activations are kept in registers over the records of a task instead of its codes.
const MANY: usize = 8;

/// A cache line.
const LINE: usize = 64;

/// Codes of sixteen blocks, laid out as `Int8::codes`.
type Codes = [__m512i; TILE];

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
    let at_a_time = if count < MANY { 1 } else { TASK };
    for (part, out) in out.chunks_mut(at_a_time * count).enumerate() {
        let lanes = &mut lanes[..out.len()];
        lanes.fill([0.0; LANES]);
        let first = first + part * at_a_time;
        match at_a_time {
            1 => one::<MID, AFFINE>(rows, x, first, lanes),
            _ => several::<MID, AFFINE>(rows, x, first, lanes),
        }
        out.iter_mut().zip(lanes).for_each(|(out, lanes)| *out = fold16(*lanes));
    }
}

/// Record `r` into `lanes [N]`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn one<const MID: bool, const AFFINE: bool>(rows: &Rows, x: &Int8, r: usize, lanes: &mut [[f32; LANES]]) {
    let bias = _mm512_set1_epi32(bias(&rows.coding, rows.level));
    let record = rows.record(r);
    for tile in 0..x.tiles {
        ahead::<MID>(rows, &record, tile);
        let codes = codes::<MID>(&record, tile);
        let scales = scales(rows.coding.form, rows.level, record.scales, tile * TILE);
        for (n, lanes) in lanes.iter_mut().enumerate() {
            let at = n * x.tiles + tile;
            let dots = dots(&codes, &activations(&x.codes[at]));
            let terms = terms::<AFFINE>(dots, bias, ints(&x.sums[at]), floats(&x.scales[at]), &scales);
            store(lanes, _mm512_add_ps(floats(lanes), terms));
        }
    }
}

/// Records `first..` into `lanes [records][N]`: a tile's activations stay in registers over all of them, where with many
/// inputs they would come from the second cache for every record.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn several<const MID: bool, const AFFINE: bool>(rows: &Rows, x: &Int8, first: usize, lanes: &mut [[f32; LANES]]) {
    let bias = _mm512_set1_epi32(bias(&rows.coding, rows.level));
    let count = x.codes.len() / x.tiles;
    let none = Scales { step: _mm512_setzero_ps(), lo: _mm512_setzero_ps() };
    let mut weights = [([_mm512_setzero_si512(); TILE], none); TASK];
    for tile in 0..x.tiles {
        for (r, (codes_of, scales_of)) in weights[..lanes.len() / count].iter_mut().enumerate() {
            let record = rows.record(first + r);
            *codes_of = codes::<MID>(&record, tile);
            *scales_of = scales(rows.coding.form, rows.level, record.scales, tile * TILE);
        }
        for n in 0..count {
            let at = n * x.tiles + tile;
            let (activations, sums, sizes) = (activations(&x.codes[at]), ints(&x.sums[at]), floats(&x.scales[at]));
            for (lanes, (codes, scales)) in lanes[n..].iter_mut().step_by(count).zip(&weights) {
                let terms = terms::<AFFINE>(dots(codes, &activations), bias, sums, sizes, scales);
                store(lanes, _mm512_add_ps(floats(lanes), terms));
            }
        }
    }
}

/// Asks for the same tile two records on: the lines of a record and a half are in flight while one is computed.
#[inline(always)]
fn ahead<const MID: bool>(rows: &Rows, record: &Record, tile: usize) {
    const RECORDS: usize = 2;
    for plane in 0..1 + usize::from(MID) {
        let far = RECORDS * rows.columns[plane].stride;
        for line in 0..TILE_BYTES / LINE {
            prefetch(record.codes[plane], tile * TILE_BYTES + line * LINE + far);
        }
    }
    prefetch(record.scales, tile * LINE + RECORDS * rows.columns[0].stride);
}

/// The codes of a tile, zeros behind the record's end.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn codes<const MID: bool>(record: &Record, tile: usize) -> Codes {
    let nibble = _mm512_set1_epi8(0x0f);
    let mut codes = [_mm512_setzero_si512(); TILE];
    let mut spare = [None; 2];
    let [spare_base, spare_mid] = &mut spare;
    let base = whole::<TILE_BYTES>(&record.codes[0][tile * TILE_BYTES..], spare_base).as_chunks().0;
    let mid =
        if MID { whole::<TILE_BYTES>(&record.codes[1][tile * TILE_BYTES..], spare_mid).as_chunks().0 } else { &[] };
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

/// The activations of a tile.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn activations(x: &[[i8; BLOCK]; TILE]) -> Codes {
    let mut all = [_mm512_setzero_si512(); TILE];
    all.iter_mut().zip(x).for_each(|(register, x)| *register = signed(x));
    all
}

/// Sixteen exact dots of 64 codes with 64 activations, in block order.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn dots(codes: &Codes, x: &Codes) -> __m512i {
    let mut pairs = [_mm512_setzero_si512(); TILE / 2];
    for (p, pair) in pairs.iter_mut().enumerate() {
        let low = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[2 * p], x[2 * p]);
        *pair = _mm512_dpbusd_epi32(low, codes[2 * p + 1], x[2 * p + 1]);
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
fn terms<const AFFINE: bool>(dots: __m512i, bias: __m512i, sums: __m512i, sizes: __m512, s: &Scales) -> __m512 {
    let exact = _mm512_add_epi32(_mm512_add_epi32(dots, dots), _mm512_mullo_epi32(sums, bias));
    let exact = _mm512_cvtepi32_ps(exact);
    if AFFINE {
        let offset = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), s.lo);
        _mm512_mul_ps(_mm512_add_ps(_mm512_mul_ps(exact, s.step), offset), sizes)
    } else {
        _mm512_mul_ps(exact, _mm512_mul_ps(s.step, sizes))
    }
}
