//! Blocks of 64 weights decoded into four registers with AVX-512: `quant::values`, sixteen at a time.

use super::ahead::{self, Distance};
use super::block::Block;
use super::load::{bytes as bytes64, bytes16, bytes32, store};
use super::scales::scales;
use crate::config::Form;
use crate::kernels::columns::STRIP;
use crate::quant::{Record, Rows, bias};
use crate::types::Level;
use std::arch::x86_64::*;

/// Calls a body that is made for each level and form with those of `rows`.
macro_rules! by_coding {
    ($rows:expr, $body:ident($($argument:expr),*)) => {
        match ($rows.level, $rows.coding.form) {
            ($crate::types::Level::L4, $crate::config::Form::Affine) => $body::<4, true>($($argument),*),
            ($crate::types::Level::L4, $crate::config::Form::Symmetric) => $body::<4, false>($($argument),*),
            ($crate::types::Level::L8, $crate::config::Form::Affine) => $body::<8, true>($($argument),*),
            ($crate::types::Level::L8, $crate::config::Form::Symmetric) => $body::<8, false>($($argument),*),
            ($crate::types::Level::L16, $crate::config::Form::Affine) => $body::<16, true>($($argument),*),
            ($crate::types::Level::L16, $crate::config::Form::Symmetric) => $body::<16, false>($($argument),*),
        }
    };
}
pub(super) use by_coding;

/// 64 weights in order.
pub type Values = [__m512; 4];

/// Codes of a block in order.
type Codes = [__m512i; 4];

/// Up to sixteen blocks of a record.
pub struct Blocks<'a> {
    /// Bytes of base, mid, low.
    base: &'a [[u8; 32]],
    mid: &'a [[u8; 32]],
    low: &'a [[u8; 64]],
    step: [f32; STRIP],
    lo: [f32; STRIP],
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
            low: if BITS > 8 { &record.codes[2].as_chunks().0[range] } else { &[] },
            step: [0.0; STRIP],
            lo: [0.0; STRIP],
        };
        store(&mut blocks.step, scales.step);
        store(&mut blocks.lo, scales.lo);
        blocks
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
        let middles = match BITS {
            8 => bytes(&blocks.base[i], &blocks.mid[i]).map(|code| middles(code, self.bias)),
            _ => words::<AFFINE>(&blocks.base[i], &blocks.mid[i], &blocks.low[i], self.bias),
        };
        middles.map(|middle| last(scaled(middle, step, lo)))
    }
}

/// Blocks of one group, of a record from `first` on, into memory.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn decode(rows: &Rows, record: &Record, first: usize, next: Distance, to: &mut [Block]) {
    by_coding!(rows, write(rows, record, first, next, to))
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn write<const BITS: u32, const AFFINE: bool>(
    rows: &Rows,
    record: &Record,
    first: usize,
    next: Distance,
    to: &mut [Block],
) {
    let decoder = Decoder::<BITS, AFFINE>::new(rows);
    for (strip, to) in to.chunks_mut(STRIP).enumerate() {
        let first = first + strip * STRIP;
        let blocks = decoder.blocks(record, first, to.len());
        for (block, to) in to.iter_mut().enumerate() {
            ahead::block(rows.level, record, first + block, next);
            to.iter_mut().zip(decoder.values(&blocks, block)).for_each(|(to, value)| store(to, value));
        }
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

/// `2 * code + bias` of codes of 16 bits. A code becomes the lower half of a float whose upper half says 2^24, where
/// neighbours are 2 apart: no widening, no conversion, and what is left is exact.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn words<const AFFINE: bool>(base: &[u8; 32], mid: &[u8; 32], low: &[u8; 64], bias: __m512) -> Values {
    const EXPONENT: i16 = 0x4b80;
    // Unpacking goes by quarters of a register: each takes every fourth four of the weights.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let low = _mm512_permutexvar_epi32(order, bytes64(low));
    let high = _mm512_permutexvar_epi32(order, upper(bytes32(base), bytes32(mid)));
    let words = [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)];
    let exponent = _mm512_set1_epi16(EXPONENT);
    let floats = |words| [_mm512_unpacklo_epi16(words, exponent), _mm512_unpackhi_epi16(words, exponent)];
    let [[a, b], [c, d]] = words.map(floats);
    [a, b, c, d].map(|float| offset::<AFFINE>(_mm512_castsi512_ps(float), bias))
}

/// `float - 2^24 + bias`: of the two biases only the affine form's, 0 or 1, makes one exact difference of it.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn offset<const AFFINE: bool>(float: __m512, bias: __m512) -> __m512 {
    let power = _mm512_set1_ps(16_777_216.0);
    if AFFINE {
        return _mm512_sub_ps(float, _mm512_sub_ps(power, bias));
    }
    _mm512_add_ps(_mm512_sub_ps(float, power), bias)
}

/// Upper bytes of 64 codes in order.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn upper(base: __m256i, mid: __m256i) -> __m512i {
    // Bits of the second operand where the first has ones, else of the third.
    const SELECT: i32 = 0xca;
    let (none, four) = (_mm256_setzero_si256(), _mm256_set1_epi16(4));
    let left = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(four), none);
    let right = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(none), four);
    let base = _mm512_sllv_epi16(_mm512_broadcast_i64x4(base), left);
    let mid = _mm512_srlv_epi16(_mm512_broadcast_i64x4(mid), right);
    _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(0x0f), mid, base)
}
