//! Int8 dots of one column with AVX2: as `int8`, eight groups of a record at a time. Nibble planes are multiplied apart:
//! products of whole byte codes would saturate the 16 bits that `maddubs` sums pairs in, those of nibbles (at most
//! 4 * 15 * 127) fit.

use super::super::lanes::{LANES, fold16};
use super::super::project::{RowWork, in_tile};
use super::int8::ahead;
use super::load::{bytes32, floats8, signed32, store8};
use super::scales::{bias, whole};
use crate::config::Form;
use crate::quant::{Int8, Record, Rows, TILE};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Groups at a time: half a tile.
const EIGHT: usize = TILE / 2;

/// Cells of eight groups: code c stands for `origin + c * width`.
pub struct Cells {
    pub width: __m256,
    pub origin: __m256,
}

/// Records `first..` of work that `int8::takes`, with one column; `out` is `[tiles][16]`.
#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
fn one<const MID: bool>(rows: &Rows, x: &Int8, r: usize) -> f32 {
    let record = rows.record(r);
    let mut lanes = [0.0; LANES];
    for first in (0..rows.blocks()).step_by(EIGHT) {
        let (tile, part) = (first / TILE, first % TILE / EIGHT);
        if part == 0 {
            ahead::<MID>(rows, &record, tile);
        }
        let cells = cells(rows, record.scales, first);
        let (sums, scales) = (&x.sums[tile].as_chunks().0[part], &x.scales[tile].as_chunks().0[part]);
        let dots = _mm256_mul_ps(_mm256_cvtepi32_ps(dots::<MID>(&record, first, &x.codes[tile])), floats8(scales));
        let lanes = &mut lanes.as_chunks_mut().0[part];
        let sum = _mm256_fmadd_ps(cells.width, dots, floats8(lanes));
        store8(lanes, _mm256_fmadd_ps(cells.origin, floats8(sums), sum));
    }
    fold16(lanes)
}

/// Cells of groups `first..first + 8`, zeros behind the record's last.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn cells(rows: &Rows, of_record: &[u8], first: usize) -> Cells {
    let (step, lo) = match rows.coding.form {
        Form::Affine => scales::<true>(rows.level, of_record, first),
        Form::Symmetric => scales::<false>(rows.level, of_record, first),
    };
    let bias = _mm256_set1_ps(bias(&rows.coding, rows.level) as f32);
    Cells { width: _mm256_add_ps(step, step), origin: _mm256_add_ps(lo, _mm256_mul_ps(bias, step)) }
}

/// Size and lower end of groups `first..first + 8`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales<const AFFINE: bool>(level: Level, scales: &[u8], first: usize) -> (__m256, __m256) {
    let power = |n: u32| _mm256_set1_ps(f32::from_bits((127 - n) << 23));
    let mut spare = None;
    if AFFINE {
        let pairs = bytes32(whole(&scales[4 * first..], &mut spare));
        let (lo, range) = (_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32::<16>(pairs));
        // Packing goes by halves of the register: the quarters are then put in order.
        let both = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(lo, range));
        let range = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(both));
        let lo = _mm256_cvtph_ps(_mm256_castsi256_si128(both));
        return (_mm256_mul_ps(range, power(level.bits() + 1)), lo);
    }
    let sizes = _mm256_castsi256_si128(bytes32(whole(&scales[2 * first..], &mut spare)));
    (_mm256_mul_ps(_mm256_cvtph_ps(sizes), power(level.bits())), _mm256_setzero_ps())
}

/// Exact dots of blocks `first..first + 8` with their activations in a tile, zeros behind the record's last block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<const MID: bool>(record: &Record, first: usize, x: &[[i8; BLOCK]; TILE]) -> __m256i {
    let base = &record.codes[0].as_chunks().0[first..];
    let mid = if MID { &record.codes[1].as_chunks().0[first..] } else { &[] };
    let mut dots = [_mm256_setzero_si256(); EIGHT];
    for (i, (dot, base)) in dots.iter_mut().zip(base).enumerate() {
        let pair = first % TILE / 2 + i / 2;
        let low = signed32(&x[2 * pair].as_chunks().0[i % 2]);
        let high = signed32(&x[2 * pair + 1].as_chunks().0[i % 2]);
        *dot = if MID {
            let (base, mid) = (nibble_dots(base, low, high), nibble_dots(&mid[i], low, high));
            let base = _mm256_madd_epi16(base, _mm256_set1_epi16(16));
            _mm256_add_epi32(base, _mm256_madd_epi16(mid, _mm256_set1_epi16(1)))
        } else {
            _mm256_madd_epi16(nibble_dots(base, low, high), _mm256_set1_epi16(1))
        };
    }
    gather(&dots)
}

/// Sums of four products each of a plane's nibbles with activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibble_dots(plane: &[u8; 32], low: __m256i, high: __m256i) -> __m256i {
    let (plane, nibble) = (bytes32(plane), _mm256_set1_epi8(0x0f));
    let lower = _mm256_maddubs_epi16(_mm256_and_si256(plane, nibble), low);
    let upper = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(plane), nibble), high);
    _mm256_add_epi16(lower, upper)
}

/// Sums of eight registers' lanes, in order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gather(all: &[__m256i; EIGHT]) -> __m256i {
    let two = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let four = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let low = four(two(all[0], all[1]), two(all[2], all[3]));
    let high = four(two(all[4], all[5]), two(all[6], all[7]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}
