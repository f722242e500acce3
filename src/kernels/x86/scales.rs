//! Scales of sixteen groups at a time with AVX-512, as f32.

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
