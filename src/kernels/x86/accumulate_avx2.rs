//! Accumulations with AVX2: two records decoded, half a block at a time, for every visit to a column's sums, added by
//! rising record, each product rounded first.

use super::super::accumulate::TileWork;
use super::load::{floats8, store8};
use crate::quant::{Record, Rows, Scale, scale};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Records that share a visit.
const RECORDS: usize = 2;

/// Weights of half a block, or their sums for one column.
const HALF: usize = BLOCK / 2;

/// 32 weights in order.
type Values = [__m256; 4];

/// All records into one tile's chunk, `[blocks][N][64]`.
#[target_feature(enable = "avx2,f16c")]
pub fn tile(work: &TileWork, chunk: &mut [f32]) {
    match work.rows.level {
        Level::L4 => records::<4>(work, chunk),
        Level::L8 => records::<8>(work, chunk),
        Level::L16 => records::<16>(work, chunk),
    }
}

#[target_feature(enable = "avx2,f16c")]
fn records<const BITS: u32>(work: &TileWork, chunk: &mut [f32]) {
    let pairs = work.rows.count / RECORDS * RECORDS;
    for first in (0..pairs).step_by(RECORDS) {
        some::<BITS, RECORDS>(work, first, chunk);
    }
    for first in pairs..work.rows.count {
        some::<BITS, 1>(work, first, chunk);
    }
}

/// `R` records from `first` on.
#[target_feature(enable = "avx2,f16c")]
fn some<const BITS: u32, const R: usize>(work: &TileWork, first: usize, chunk: &mut [f32]) {
    let records: [Record; R] = std::array::from_fn(|r| work.rows.record(first + r));
    let factors = &work.factors[first * work.count..][..R * work.count];
    let blocks = chunk.as_chunks_mut::<8>().0.chunks_exact_mut(work.count * BLOCK / 8);
    for (block, sums) in blocks.enumerate() {
        for half in [0, 1] {
            let mut values = [[_mm256_setzero_ps(); 4]; R];
            for (values, record) in values.iter_mut().zip(&records) {
                *values = decoded::<BITS>(work.rows, record, work.first + block, half);
            }
            let columns = sums.as_chunks_mut::<4>().0.iter_mut().skip(half).step_by(2);
            for (n, sums) in columns.enumerate() {
                let factors: [f32; R] = std::array::from_fn(|r| factors[r * work.count + n]);
                add(sums, &values, &factors);
            }
        }
    }
}

/// `sums += factors[r] * values[r]` for r = 0, 1, ...
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn add<const R: usize>(sums: &mut [[f32; 8]; 4], values: &[Values; R], factors: &[f32; R]) {
    for (i, sums) in sums.iter_mut().enumerate() {
        let mut sum = floats8(sums);
        for (values, factor) in values.iter().zip(factors) {
            sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_set1_ps(*factor), values[i]));
        }
        store8(sums, sum);
    }
}

/// Half `half` of block `block`: `quant::values`, eight at a time.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn decoded<const BITS: u32>(rows: &Rows, record: &Record, block: usize, half: usize) -> Values {
    let group = (block * BLOCK + half * HALF) / rows.coding.group;
    let Scale { step, lo, bias } = scale(&rows.coding, rows.level, record.scales, group);
    let (step, lo, bias) = (_mm256_set1_ps(step), _mm256_set1_ps(lo), _mm256_set1_epi32(bias));
    let mut values = [step; 4];
    for (i, value) in values.iter_mut().enumerate() {
        let code = codes::<BITS>(record, block, half, i);
        let middle = _mm256_add_epi32(_mm256_add_epi32(code, code), bias);
        *value = _mm256_add_ps(lo, _mm256_mul_ps(_mm256_cvtepi32_ps(middle), step));
    }
    values
}

/// Codes `8 * i..` of a half.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn codes<const BITS: u32>(record: &Record, block: usize, half: usize, i: usize) -> __m256i {
    let nibbles = |plane: usize| {
        let bytes = eight(record.codes[plane], block * 4 + i);
        if half == 0 { _mm256_and_si256(bytes, _mm256_set1_epi32(15)) } else { _mm256_srli_epi32::<4>(bytes) }
    };
    let mut code = nibbles(0);
    if BITS > 4 {
        code = _mm256_or_si256(_mm256_slli_epi32::<4>(code), nibbles(1));
    }
    if BITS > 8 {
        let low = eight(record.codes[2], block * 8 + half * 4 + i);
        code = _mm256_or_si256(_mm256_slli_epi32::<8>(code), low);
    }
    code
}

/// Bytes `8 * at..` as integers.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn eight(bytes: &[u8], at: usize) -> __m256i {
    _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(bytes.as_chunks().0[at])))
}
