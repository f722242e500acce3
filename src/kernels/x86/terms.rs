//! What makes a weight's sum of integers (docs/format.md, 6): the largest product of a column and a group, and what codes
//! of 0 add; sixteen groups side by side with AVX-512, eight with AVX2.

use super::load::{floats, floats8, store, store8};
use super::scales::{Cells, Cells8};
use crate::kernels::factors::{TINY, TOP};
use crate::types::BLOCK;
use std::arch::x86_64::*;

/// One column and so many groups.
#[derive(Clone, Copy)]
pub struct Terms<const GROUPS: usize> {
    /// Times a record's product with its cell: its factor.
    pub share: [f32; GROUPS],
    /// Times a sum of factors and codes: what these add.
    unit: [f32; GROUPS],
    /// What codes of 0 add.
    offset: [f32; GROUPS],
}

impl<const GROUPS: usize> Terms<GROUPS> {
    pub const NONE: Self = Terms { share: [0.0; GROUPS], unit: [0.0; GROUPS], offset: [0.0; GROUPS] };
}

/// Terms in the making, of sixteen groups.
#[derive(Clone, Copy)]
pub struct Making {
    /// The largest size, as bits: what is no number is the largest.
    most: __m512i,
    offset: __m512,
}

impl Making {
    /// Of no record.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn new() -> Making {
        Making { most: _mm512_setzero_si512(), offset: _mm512_setzero_ps() }
    }

    /// Takes a record with factor `h`, and gives its products with the cells.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn take(&mut self, h: f32, cells: &Cells) -> __m512 {
        let h = _mm512_set1_ps(h);
        let product = _mm512_mul_ps(h, cells.width);
        let size = _mm512_and_si512(_mm512_castps_si512(product), _mm512_set1_epi32(0x7fff_ffff));
        self.most = _mm512_max_epu32(self.most, size);
        self.offset = _mm512_fmadd_ps(h, cells.origin, self.offset);
        product
    }

    /// Of all records that were taken.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn terms(self) -> Terms<16> {
        let (most, top, mut terms) = (_mm512_castsi512_ps(self.most), _mm512_set1_ps(TOP), Terms::NONE);
        let enough = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(most, _mm512_set1_ps(TINY));
        store(&mut terms.share, _mm512_maskz_div_ps(enough, top, most));
        store(&mut terms.unit, _mm512_div_ps(most, top));
        store(&mut terms.offset, self.offset);
        terms
    }
}

impl Terms<16> {
    /// `sums += fma(unit, dots, offset)` of group `index`, 64 weights in order.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn add(&self, index: usize, dots: &[__m512i; 4], sums: &mut [f32; BLOCK]) {
        let (unit, offset) = (_mm512_set1_ps(self.unit[index]), _mm512_set1_ps(self.offset[index]));
        for (sums, dots) in sums.as_chunks_mut().0.iter_mut().zip(dots) {
            let term = _mm512_fmadd_ps(unit, _mm512_cvtepi32_ps(*dots), offset);
            store(sums, _mm512_add_ps(floats(sums), term));
        }
    }
}

/// Terms in the making, of eight groups.
#[derive(Clone, Copy)]
pub struct Making8 {
    /// As in [`Making`].
    most: __m256i,
    offset: __m256,
}

impl Making8 {
    /// Of no record.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn new() -> Making8 {
        Making8 { most: _mm256_setzero_si256(), offset: _mm256_setzero_ps() }
    }

    /// Takes a record with factor `h`, and gives its products with the cells.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn take(&mut self, h: f32, cells: &Cells8) -> __m256 {
        let h = _mm256_set1_ps(h);
        let product = _mm256_mul_ps(h, cells.width);
        let size = _mm256_and_si256(_mm256_castps_si256(product), _mm256_set1_epi32(0x7fff_ffff));
        self.most = _mm256_max_epu32(self.most, size);
        self.offset = _mm256_fmadd_ps(h, cells.origin, self.offset);
        product
    }

    /// Of all records that were taken.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn terms(self) -> Terms<8> {
        let (most, top, mut terms) = (_mm256_castsi256_ps(self.most), _mm256_set1_ps(TOP), Terms::NONE);
        let little = _mm256_cmp_ps::<_CMP_LT_OQ>(most, _mm256_set1_ps(TINY));
        store8(&mut terms.share, _mm256_andnot_ps(little, _mm256_div_ps(top, most)));
        store8(&mut terms.unit, _mm256_div_ps(most, top));
        store8(&mut terms.offset, self.offset);
        terms
    }
}

impl Terms<8> {
    /// `sums += fma(unit, dots, offset)` of group `index`, 32 weights in order.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn add(&self, index: usize, dots: &[__m256i; 4], sums: &mut [f32; BLOCK / 2]) {
        let (unit, offset) = (_mm256_set1_ps(self.unit[index]), _mm256_set1_ps(self.offset[index]));
        for (sums, dots) in sums.as_chunks_mut().0.iter_mut().zip(dots) {
            let term = _mm256_fmadd_ps(unit, _mm256_cvtepi32_ps(*dots), offset);
            store8(sums, _mm256_add_ps(floats8(sums), term));
        }
    }
}
