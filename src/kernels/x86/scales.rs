//! Scales of sixteen groups at a time with AVX-512, as f32.

use super::load::{bytes, bytes32};
use crate::config::{Coding, Form};
use crate::types::Level;
use std::arch::x86_64::*;

/// Size and lower end of sixteen groups; zeros behind a record's last.
#[derive(Clone, Copy)]
pub struct Scales {
    pub step: __m512,
    pub lo: __m512,
}

/// Cells of sixteen groups: code c stands for `origin + c * width`; zeros behind a record's last.
#[derive(Clone, Copy)]
pub struct Cells {
    pub width: __m512,
    pub origin: __m512,
}

/// Groups `first..first + 16` of a record's cells.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn cells(coding: &Coding, level: Level, of_record: &[u8], first: usize) -> Cells {
    let Scales { step, lo } = scales(coding.form, level, of_record, first);
    let bias = _mm512_set1_ps(bias(coding, level) as f32);
    Cells { width: _mm512_add_ps(step, step), origin: _mm512_add_ps(lo, _mm512_mul_ps(bias, step)) }
}

/// Groups `first..first + 16` of a record's scales, for codes of `level`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn scales(form: Form, level: Level, scales: &[u8], first: usize) -> Scales {
    match form {
        Form::Affine => {
            let mut spare = None;
            let pairs = bytes(whole(&scales[4 * first..], &mut spare));
            let lo = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
            let range = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pairs)));
            Scales { step: _mm512_mul_ps(range, inverse_power(level.bits() + 1)), lo }
        }
        Form::Symmetric => {
            let mut spare = None;
            let size = _mm512_cvtph_ps(bytes32(whole(&scales[2 * first..], &mut spare)));
            Scales { step: _mm512_mul_ps(size, inverse_power(level.bits())), lo: _mm512_setzero_ps() }
        }
    }
}

/// What is added to twice a code of `level`.
pub fn bias(coding: &Coding, level: Level) -> i32 {
    let cell = i32::from(coding.cells[level as usize]);
    match coding.form {
        Form::Affine => cell,
        Form::Symmetric => cell - (1 << level.bits()),
    }
}

/// 2^-n, exactly.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn inverse_power(n: u32) -> __m512 {
    _mm512_set1_ps(f32::from_bits((127 - n) << 23))
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
