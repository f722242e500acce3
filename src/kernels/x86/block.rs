//! Blocks of 64 weights decoded into four registers with AVX-512: `quant::values`, sixteen at a time.

use super::load::{bytes16, bytes32};
use crate::config::{Coding, Form};
use crate::quant::Record;
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// 64 weights in order.
pub type Values = [__m512; 4];

/// Codes of 64 weights in order.
type Codes = [__m512i; 4];

/// Whether blocks of this coding are decoded here: those of one group.
pub fn takes(coding: &Coding) -> bool {
    coding.group == BLOCK
}

/// The decoder of one level (its bits) and form.
///
/// A value is `lo + (2 * code + bias) * (scale * 2^-k)`. Products with a power of two are exact, so 2^-k is multiplied
/// into the constants instead of into every scale.
#[derive(Clone, Copy)]
pub struct Decoder<const BITS: u32, const AFFINE: bool> {
    /// 2 * 2^-k.
    twice: __m512,
    /// bias * 2^-k.
    bias: __m512,
    /// What the sixteen codes of 4 bits become before the scale.
    table: __m512,
}

impl<const BITS: u32, const AFFINE: bool> Decoder<BITS, AFFINE> {
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn new(coding: &Coding) -> Self {
        debug_assert!(AFFINE == (coding.form == Form::Affine));
        let cell = i32::from(coding.cells[Level::from_bits(BITS).map_or(0, |level| level as usize)]);
        let (bias, power) = if AFFINE { (cell, BITS + 1) } else { (cell - (1 << BITS), BITS) };
        let unit = f32::from_bits((127 - power) << 23);
        let (twice, bias) = (_mm512_set1_ps(2.0 * unit), _mm512_set1_ps(bias as f32 * unit));
        let codes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        Decoder { twice, bias, table: middles(codes, twice, bias) }
    }

    /// Block `block` of a record.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn block(&self, record: &Record, block: usize) -> Values {
        let (step, lo) = scales::<AFFINE>(record.scales, block);
        let mut values = [step; 4];
        if BITS == 4 {
            let table = scaled(self.table, step, lo);
            for (value, code) in values.iter_mut().zip(nibbles(record, block)) {
                *value = _mm512_permutexvar_ps(code, table);
            }
            return values;
        }
        let codes = if BITS == 8 { bytes(record, block) } else { words(record, block) };
        for (value, code) in values.iter_mut().zip(codes) {
            *value = scaled(middles(code, self.twice, self.bias), step, lo);
        }
        values
    }
}

/// `(2 * code + bias) * 2^-k`: below 2^17 in units of 2^-k, so the fused form is exact too.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn middles(codes: __m512i, twice: __m512, bias: __m512) -> __m512 {
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), twice, bias)
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn scaled(middle: __m512, step: __m512, lo: __m512) -> __m512 {
    _mm512_add_ps(lo, _mm512_mul_ps(middle, step))
}

/// Size and lower end of a group, in every lane.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn scales<const AFFINE: bool>(scales: &[u8], group: usize) -> (__m512, __m512) {
    if AFFINE {
        let pair = i32::from_le_bytes(scales.as_chunks().0[group]);
        let pairs = _mm512_cvtph_ps(_mm256_set1_epi32(pair));
        return (_mm512_movehdup_ps(pairs), _mm512_moveldup_ps(pairs));
    }
    let size = i16::from_le_bytes(scales.as_chunks().0[group]);
    (_mm512_cvtph_ps(_mm256_set1_epi16(size)), _mm512_setzero_ps())
}

/// Codes of 4 bits in the lower four bits of each lane; a lookup in sixteen lanes takes no notice of the rest.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn nibbles(record: &Record, block: usize) -> Codes {
    let [low, high] = &record.codes[0].as_chunks::<16>().0.as_chunks::<2>().0[block];
    let (low, high) = (_mm512_cvtepu8_epi32(bytes16(low)), _mm512_cvtepu8_epi32(bytes16(high)));
    [low, high, _mm512_srli_epi32::<4>(low), _mm512_srli_epi32::<4>(high)]
}

/// Codes of 8 bits.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn bytes(record: &Record, block: usize) -> Codes {
    // Bits of the second operand where the first has ones, else of the third.
    const SELECT: i32 = 0xca;
    let nibble = _mm256_set1_epi8(0x0f);
    let base = bytes32(&record.codes[0].as_chunks().0[block]);
    let mid = bytes32(&record.codes[1].as_chunks().0[block]);
    let low = _mm256_ternarylogic_epi32::<SELECT>(nibble, mid, _mm256_slli_epi16::<4>(base));
    let high = _mm256_ternarylogic_epi32::<SELECT>(nibble, _mm256_srli_epi16::<4>(mid), base);
    [
        _mm512_cvtepu8_epi32(_mm256_castsi256_si128(low)),
        _mm512_cvtepu8_epi32(_mm256_extracti128_si256::<1>(low)),
        _mm512_cvtepu8_epi32(_mm256_castsi256_si128(high)),
        _mm512_cvtepu8_epi32(_mm256_extracti128_si256::<1>(high)),
    ]
}

/// Codes of 16 bits.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn words(record: &Record, block: usize) -> Codes {
    let low = &record.codes[2].as_chunks::<16>().0.as_chunks::<4>().0[block];
    let mut codes = bytes(record, block);
    for (code, low) in codes.iter_mut().zip(low) {
        *code = _mm512_or_si512(_mm512_slli_epi32::<8>(*code), _mm512_cvtepu8_epi32(bytes16(low)));
    }
    codes
}
