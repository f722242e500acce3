//! Blocks of 64 weights decoded into four registers with AVX-512: `quant::values`, sixteen at a time.

use super::load::{bytes16, bytes32, prefetch, store};
use super::scales::{bias, scales};
use crate::config::{Coding, Form};
use crate::quant::{Record, Rows};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Blocks whose scales are converted at a time.
pub const RUN: usize = 16;

/// 64 weights in order.
pub type Values = [__m512; 4];

/// Codes of 64 weights in order.
type Codes = [__m512i; 4];

/// Whether blocks of this coding are decoded here: those of one group.
pub fn takes(coding: &Coding) -> bool {
    coding.group == BLOCK
}

/// Up to sixteen blocks of a record.
pub struct Blocks<'a> {
    /// Bytes of base, mid, low.
    base: &'a [[u8; 32]],
    mid: &'a [[u8; 32]],
    low: &'a [[[u8; 16]; 4]],
    step: [f32; RUN],
    lo: [f32; RUN],
}

/// The decoder of one level (its bits) and form.
#[derive(Clone, Copy)]
pub struct Decoder<const BITS: u32, const AFFINE: bool> {
    level: Level,
    /// Added to twice the code.
    bias: __m512,
    /// Twice the code plus the bias for the sixteen codes of 4 bits.
    table: __m512,
}

impl<const BITS: u32, const AFFINE: bool> Decoder<BITS, AFFINE> {
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn new(rows: &Rows) -> Self {
        let bias = _mm512_set1_ps(bias(&rows.coding, rows.level) as f32);
        let codes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        Decoder { level: rows.level, bias, table: middles(codes, bias) }
    }

    /// Blocks `first..first + count` of a record, at most sixteen.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn blocks<'a>(&self, record: &Record<'a>, first: usize, count: usize) -> Blocks<'a> {
        let range = first..first + count;
        let form = if AFFINE { Form::Affine } else { Form::Symmetric };
        let scales = scales(form, self.level, record.scales, first);
        let mut blocks = Blocks {
            base: &record.codes[0].as_chunks().0[range.clone()],
            mid: if BITS > 4 { &record.codes[1].as_chunks().0[range.clone()] } else { &[] },
            low: if BITS > 8 { &record.codes[2].as_chunks().0.as_chunks().0[range] } else { &[] },
            step: [0.0; RUN],
            lo: [0.0; RUN],
        };
        store(&mut blocks.step, scales.step);
        store(&mut blocks.lo, scales.lo);
        blocks
    }

    /// Asks for the lines of blocks `first..first + count` of the record that lies `records` behind.
    #[inline(always)]
    pub fn ahead(&self, rows: &Rows, record: &Record, first: usize, count: usize, records: usize) {
        const LINE: usize = 64;
        for (plane, bytes) in [32, 32, 64].into_iter().enumerate().take(self.level.plane_count()) {
            let far = first * bytes + records * rows.columns[plane].stride;
            (0..count * bytes).step_by(LINE).for_each(|at| prefetch(record.codes[plane], far + at));
        }
        let bytes = if AFFINE { 4 } else { 2 };
        prefetch(record.scales, first * bytes + records * rows.columns[0].stride);
    }

    /// Block `i` of `blocks`.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn values(&self, blocks: &Blocks, i: usize) -> Values {
        self.decode(blocks, i, |value| value)
    }

    /// Block `i` of `blocks`, every weight multiplied with `factor`.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn products(&self, blocks: &Blocks, i: usize, factor: __m512) -> Values {
        self.decode(blocks, i, |value| _mm512_mul_ps(factor, value))
    }

    /// Block `i` of `blocks` with `last` done to the weights: at 4 bits to the sixteen that there are.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    fn decode(&self, blocks: &Blocks, i: usize, last: impl Fn(__m512) -> __m512) -> Values {
        let (step, lo) = (_mm512_set1_ps(blocks.step[i]), _mm512_set1_ps(blocks.lo[i]));
        let mut values = [step; 4];
        if BITS == 4 {
            let table = last(scaled(self.table, step, lo));
            for (value, code) in values.iter_mut().zip(nibbles(&blocks.base[i])) {
                *value = _mm512_permutexvar_ps(code, table);
            }
            return values;
        }
        let mut codes = bytes(&blocks.base[i], &blocks.mid[i]);
        if BITS == 16 {
            append(&mut codes, &blocks.low[i]);
        }
        for (value, code) in values.iter_mut().zip(codes) {
            *value = last(scaled(middles(code, self.bias), step, lo));
        }
        values
    }
}

/// `2 * code + bias`: below 2^17, so the fused form is exact too.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn middles(codes: __m512i, bias: __m512) -> __m512 {
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(2.0), bias)
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn scaled(middle: __m512, step: __m512, lo: __m512) -> __m512 {
    _mm512_add_ps(lo, _mm512_mul_ps(middle, step))
}

/// Codes of 4 bits in the lower four bits of each lane; a lookup in sixteen lanes takes no notice of the rest.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn nibbles(base: &[u8; 32]) -> Codes {
    let [low, high] = halves(base);
    let (low, high) = (_mm512_cvtepu8_epi32(bytes16(low)), _mm512_cvtepu8_epi32(bytes16(high)));
    [low, high, _mm512_srli_epi32::<4>(low), _mm512_srli_epi32::<4>(high)]
}

#[inline(always)]
fn halves(bytes: &[u8; 32]) -> [&[u8; 16]; 2] {
    let (halves, _) = bytes.as_chunks::<16>();
    [&halves[0], &halves[1]]
}

/// Codes of 8 bits.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn bytes(base: &[u8; 32], mid: &[u8; 32]) -> Codes {
    // Bits of the second operand where the first has ones, else of the third.
    const SELECT: i32 = 0xca;
    let (nibble, base, mid) = (_mm256_set1_epi8(0x0f), bytes32(base), bytes32(mid));
    let low = _mm256_ternarylogic_epi32::<SELECT>(nibble, mid, _mm256_slli_epi16::<4>(base));
    let high = _mm256_ternarylogic_epi32::<SELECT>(nibble, _mm256_srli_epi16::<4>(mid), base);
    [
        _mm512_cvtepu8_epi32(_mm256_castsi256_si128(low)),
        _mm512_cvtepu8_epi32(_mm256_extracti128_si256::<1>(low)),
        _mm512_cvtepu8_epi32(_mm256_castsi256_si128(high)),
        _mm512_cvtepu8_epi32(_mm256_extracti128_si256::<1>(high)),
    ]
}

/// Codes of 8 bits become those of 16.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn append(codes: &mut Codes, low: &[[u8; 16]; 4]) {
    for (code, low) in codes.iter_mut().zip(low) {
        *code = _mm512_or_si512(_mm512_slli_epi32::<8>(*code), _mm512_cvtepu8_epi32(bytes16(low)));
    }
}
