//! Scales of eight groups at a time with AVX2, as f32.

use super::load::bytes32;
use super::scales::{bias, whole};
use crate::config::Form;
use crate::quant::Rows;
use crate::types::Level;
use std::arch::x86_64::*;

/// Cells of eight groups: code c stands for `origin + c * width`.
pub struct Cells {
    pub width: __m256,
    pub origin: __m256,
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
