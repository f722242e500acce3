//! Scales of eight groups at a time with AVX2, as f32.

use super::load::bytes32;
use super::scales::{Scales, whole};
use crate::config::{Coding, Form};
use crate::quant::{self, bias, half_cell};
use crate::types::Level;
use std::arch::x86_64::*;

/// Cells of eight groups, zeros behind a record's last.
pub type Cells = quant::Cells<__m256>;

/// Cells of groups `first..first + 8` of a record.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn cells(coding: &Coding, level: Level, of_record: &[u8], first: usize) -> Cells {
    let Scales { step, lo } = scales(coding.form, level, of_record, first);
    let bias = _mm256_set1_ps(bias(coding, level) as f32);
    Cells { width: _mm256_add_ps(step, step), origin: _mm256_add_ps(lo, _mm256_mul_ps(bias, step)) }
}

/// Scales of groups `first..first + 8` of a record, for codes of `level`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales(form: Form, level: Level, of_record: &[u8], first: usize) -> Scales<__m256> {
    let mut spare = None;
    let (size, lo) = match form {
        Form::Affine => {
            let pairs = bytes32(whole(&of_record[4 * first..], &mut spare));
            let (lo, range) = (_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32::<16>(pairs));
            // Packing goes by halves of the register: the quarters are then put in order.
            let both = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(lo, range));
            let range = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(both));
            (range, _mm256_cvtph_ps(_mm256_castsi256_si128(both)))
        }
        Form::Symmetric => {
            let sizes = _mm256_castsi256_si128(bytes32(whole(&of_record[2 * first..], &mut spare)));
            (_mm256_cvtph_ps(sizes), _mm256_setzero_ps())
        }
    };
    Scales { step: _mm256_mul_ps(size, _mm256_set1_ps(half_cell(form, level))), lo }
}
