//! Int8 dots of one column with AVX-512 VNNI: sixteen groups of a record at a time, the exact dot of each in its own
//! lane, so that scaling and summing are two vector expressions in the order `project` states.

use super::super::lanes::{LANES, fold16};
use super::super::project::{RowWork, in_tile};
use super::load::{bytes, floats, prefetch, signed, store};
use super::scales::{cells, whole};
use crate::quant::{Int8, Record, Rows, TILE};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Bytes of a nibble plane that sixteen blocks take.
const TILE_BYTES: usize = TILE * BLOCK / 2;

/// A cache line.
const LINE: usize = 64;

/// Codes of sixteen blocks, laid out as `Int8::codes`.
type Codes = [__m512i; TILE];

/// Whether hand-written paths compute the rows of `work`: int8 with a group per block.
pub fn takes(work: &RowWork) -> bool {
    work.int8().is_some() && work.rows.coding.group == BLOCK
}

/// Records `first..` of [`takes`] work with one column; `out` is `[tiles][16]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn task(work: &RowWork, first: usize, out: &mut [[f32; LANES]]) {
    let Some(x) = work.inputs.int8.as_ref() else { return };
    let rows = work.rows;
    for (tile, out) in out.iter_mut().enumerate() {
        let first = first + tile * LANES;
        for (r, out) in out.iter_mut().enumerate().take(in_tile(rows, first)) {
            *out = match rows.level {
                Level::L4 => one::<false>(rows, x, first + r),
                _ => one::<true>(rows, x, first + r),
            };
        }
    }
}

/// The dot of record `r`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn one<const MID: bool>(rows: &Rows, x: &Int8, r: usize) -> f32 {
    let record = rows.record(r);
    let mut lanes = _mm512_setzero_ps();
    for (tile, ((of_tile, scales), sums)) in x.codes.iter().zip(&x.scales).zip(&x.sums).enumerate() {
        ahead::<MID>(rows, &record, tile);
        let cells = cells(&rows.coding, rows.level, record.scales, tile * TILE);
        let dots = _mm512_cvtepi32_ps(dots(&codes::<MID>(&record, tile), of_tile));
        lanes = _mm512_fmadd_ps(cells.width, _mm512_mul_ps(dots, floats(scales)), lanes);
        lanes = _mm512_fmadd_ps(cells.origin, floats(sums), lanes);
    }
    let mut out = [0.0; LANES];
    store(&mut out, lanes);
    fold16(out)
}

/// Asks for the same tile two records on: the lines of a record and a half are in flight while one is computed.
#[inline(always)]
pub fn ahead<const MID: bool>(rows: &Rows, record: &Record, tile: usize) {
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
    let mut codes = [_mm512_setzero_si512(); TILE];
    let mut spare = [None; 2];
    let [spare_base, spare_mid] = &mut spare;
    let base = whole::<TILE_BYTES>(&record.codes[0][tile * TILE_BYTES..], spare_base).as_chunks().0;
    let mid =
        if MID { whole::<TILE_BYTES>(&record.codes[1][tile * TILE_BYTES..], spare_mid) } else { &[0; TILE_BYTES] };
    for (pair, mid) in mid.as_chunks().0.iter().enumerate() {
        [codes[2 * pair], codes[2 * pair + 1]] = joined::<MID>(bytes(&base[pair]), bytes(mid));
    }
    codes
}

/// Codes in bytes from bytes of the nibble planes: those of the lower halves of blocks and those of the upper.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn joined<const MID: bool>(base: __m512i, mid: __m512i) -> [__m512i; 2] {
    // Bits of the first operand where the mask has ones, else of the second.
    const SELECT: i32 = 0xca;
    let nibble = _mm512_set1_epi8(0x0f);
    if MID {
        let low = _mm512_ternarylogic_epi32::<SELECT>(nibble, mid, _mm512_slli_epi16::<4>(base));
        let high = _mm512_ternarylogic_epi32::<SELECT>(nibble, _mm512_srli_epi16::<4>(mid), base);
        [low, high]
    } else {
        [_mm512_and_si512(base, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(base), nibble)]
    }
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
