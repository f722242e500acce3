//! Half blocks of 32 weights decoded into four registers with AVX2: `quant::values`, eight at a time.

use super::ahead::{self, Distance};
use super::block::Block;
use super::load::{bytes32, store8};
use crate::quant::{Record, Rows, Scale, scale};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Weights of half a block.
const HALF: usize = BLOCK / 2;

/// 32 weights in order.
pub type Values = [__m256; 4];

/// Blocks of a record from `first` on into memory.
#[target_feature(enable = "avx2")]
pub fn decode(rows: &Rows, record: &Record, first: usize, next: Distance, to: &mut [Block]) {
    for (i, to) in to.iter_mut().enumerate() {
        ahead::block(rows.level, record, first + i, next);
        for (half, to) in to.as_flattened_mut().as_chunks_mut::<HALF>().0.iter_mut().enumerate() {
            let values = match rows.level {
                Level::L4 => values::<4>(rows, record, first + i, half),
                Level::L8 => values::<8>(rows, record, first + i, half),
                Level::L16 => values::<16>(rows, record, first + i, half),
            };
            to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| store8(to, value));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn values<const BITS: u32>(rows: &Rows, record: &Record, block: usize, half: usize) -> Values {
    let group = (block * BLOCK + half * HALF) / rows.coding.group;
    let Scale { step, lo, bias } = scale(&rows.coding, rows.level, record.scales, group);
    let (step, lo) = (_mm256_set1_ps(step), _mm256_set1_ps(lo));
    let mut values =
        if BITS == 16 { middles(record, block, half, bias) } else { small_middles::<BITS>(record, block, half, bias) };
    for value in &mut values {
        *value = _mm256_add_ps(lo, _mm256_mul_ps(*value, step));
    }
    values
}

/// `2 * code + bias` of codes of 4 or 8 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn small_middles<const BITS: u32>(record: &Record, block: usize, half: usize, bias: i32) -> Values {
    let mut middles = [_mm256_setzero_ps(); 4];
    for (i, middle) in middles.iter_mut().enumerate() {
        let mut code = nibbles(record.codes[0], block * 4 + i, half);
        if BITS > 4 {
            code = _mm256_or_si256(_mm256_slli_epi32::<4>(code), nibbles(record.codes[1], block * 4 + i, half));
        }
        *middle = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_add_epi32(code, code), _mm256_set1_epi32(bias)));
    }
    middles
}

/// Nibbles of bytes `8 * at..`, the lower or the upper ones.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(plane: &[u8], at: usize, half: usize) -> __m256i {
    let bytes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(plane.as_chunks().0[at])));
    if half == 0 { _mm256_and_si256(bytes, _mm256_set1_epi32(15)) } else { _mm256_srli_epi32::<4>(bytes) }
}

/// `2 * code + bias` of codes of 16 bits. A code becomes the lower half of a float whose upper half says 2^24, where
/// neighbours are 2 apart: no widening, no conversion, and what is left is exact.
#[inline]
#[target_feature(enable = "avx2")]
fn middles(record: &Record, block: usize, half: usize, bias: i32) -> Values {
    const EXPONENT: i16 = 0x4b80;
    let [base, mid] = [0, 1].map(|plane| bytes32(&record.codes[plane].as_chunks().0[block]));
    let low = bytes32(&record.codes[2].as_chunks().0[2 * block + half]);
    // Unpacking goes by halves of a register: each takes every second four of the weights.
    let order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    let (low, high) =
        (_mm256_permutevar8x32_epi32(low, order), _mm256_permutevar8x32_epi32(bytes(base, mid, half), order));
    let words = [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)];
    let (exponent, power, bias) =
        (_mm256_set1_epi16(EXPONENT), _mm256_set1_ps(16_777_216.0), _mm256_set1_ps(bias as f32));
    let floats = |words| [_mm256_unpacklo_epi16(words, exponent), _mm256_unpackhi_epi16(words, exponent)];
    let [[a, b], [c, d]] = words.map(floats);
    [a, b, c, d].map(|float| _mm256_add_ps(_mm256_sub_ps(_mm256_castsi256_ps(float), power), bias))
}

/// Upper bytes of 32 codes.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes(base: __m256i, mid: __m256i, half: usize) -> __m256i {
    let nibble = _mm256_set1_epi8(0x0f);
    let (base, mid) = if half == 0 { (_mm256_slli_epi16::<4>(base), mid) } else { (base, _mm256_srli_epi16::<4>(mid)) };
    _mm256_or_si256(_mm256_andnot_si256(nibble, base), _mm256_and_si256(nibble, mid))
}
