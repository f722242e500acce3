//! Scales of sixteen groups at a time with AVX-512, of eight with AVX2, as f32.

use super::load::{bytes, bytes32};
use crate::config::{Coding, Form};
use crate::quant::{self, bias, half_cell};
use crate::types::Level;
use std::arch::x86_64::*;

/// Cells of sixteen groups, zeros behind a record's last.
pub type Cells = quant::Cells<__m512>;

/// Half a cell and the lower end of groups side by side; zeros behind a record's last.
#[derive(Clone, Copy)]
pub struct Scales<T> {
    pub step: T,
    pub lo: T,
}

/// Cells of groups `first..first + 16` of a record.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn cells(coding: &Coding, level: Level, of_record: &[u8], first: usize) -> Cells {
    let Scales { step, lo } = scales(coding.form, level, of_record, first);
    let bias = _mm512_set1_ps(bias(coding, level) as f32);
    Cells { width: _mm512_add_ps(step, step), origin: _mm512_add_ps(lo, _mm512_mul_ps(bias, step)) }
}

/// Scales of groups `first..first + 16` of a record, for codes of `level`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn scales(form: Form, level: Level, of_record: &[u8], first: usize) -> Scales<__m512> {
    let (size, lo) = match form {
        Form::Affine => {
            let mut spare = None;
            let pairs = bytes(whole(&of_record[4 * first..], &mut spare));
            let lo = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
            (_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pairs))), lo)
        }
        Form::Symmetric => {
            let mut spare = None;
            (_mm512_cvtph_ps(bytes32(whole(&of_record[2 * first..], &mut spare))), _mm512_setzero_ps())
        }
    };
    Scales { step: _mm512_mul_ps(size, _mm512_set1_ps(half_cell(form, level))), lo }
}

/// Cells of eight groups, zeros behind a record's last.
pub type Cells8 = quant::Cells<__m256>;

/// Cells of groups `first..first + 8` of a record.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn cells8(coding: &Coding, level: Level, of_record: &[u8], first: usize) -> Cells8 {
    let Scales { step, lo } = scales8(coding.form, level, of_record, first);
    let bias = _mm256_set1_ps(bias(coding, level) as f32);
    Cells8 { width: _mm256_add_ps(step, step), origin: _mm256_add_ps(lo, _mm256_mul_ps(bias, step)) }
}

/// Scales of groups `first..first + 8` of a record, for codes of `level`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales8(form: Form, level: Level, of_record: &[u8], first: usize) -> Scales<__m256> {
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

/// The first `N` bytes, or all there are with zeros behind them.
#[inline(always)]
pub fn whole<'a, const N: usize>(rest: &'a [u8], spare: &'a mut Option<[u8; N]>) -> &'a [u8; N] {
    rest.first_chunk().unwrap_or_else(|| spare.insert(padded(rest)))
}

#[cold]
fn padded<const N: usize>(rest: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    all[..rest.len()].copy_from_slice(rest);
    all
}
