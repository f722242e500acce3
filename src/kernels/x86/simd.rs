//! Sixteen f32 side by side for kernels that are written once for AVX2 and AVX-512: `lanes::LANES` in one register or two.

use super::ahead::Distance;
use super::block::Block;
use super::load::{floats, floats8, store, store8};
use super::{decode, decode_avx2};
use crate::kernels::lanes::LANES;
use crate::quant::{Record, Rows};
use crate::types::BLOCK;
use std::arch::x86_64::*;

/// An instruction set: a value is the proof that this machine has it.
pub trait Simd: Copy {
    /// Sixteen f32.
    type Lanes: Copy;
    fn load(self, from: &[f32; LANES]) -> Self::Lanes;
    fn store(self, to: &mut [f32; LANES], lanes: Self::Lanes);
    fn splat(self, value: f32) -> Self::Lanes;
    /// `sum + a * b`, the product rounded before the sum.
    fn add_product(self, sum: Self::Lanes, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Blocks of a record from `first` on, asking for those that lie `next` behind.
    fn decode(self, rows: &Rows, record: &Record, first: usize, next: Distance, to: &mut [Block]);
}

/// AVX2, two registers.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// AVX-512, one register.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx2 {
    /// Safe where the caller is compiled for the set: only machines that have it run such a caller.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn new() -> Avx2 {
        Avx2(())
    }
}

impl Avx512 {
    /// As [`Avx2::new`].
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn new() -> Avx512 {
        Avx512(())
    }
}

impl Simd for Avx512 {
    type Lanes = __m512;

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        // SAFETY: `self` proves the set, here and below.
        unsafe { floats(from) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], lanes: __m512) {
        // SAFETY: as above.
        unsafe { store(to, lanes) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn add_product(self, sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(sum, _mm512_mul_ps(a, b)) }
    }

    #[inline(always)]
    fn decode(self, rows: &Rows, record: &Record, first: usize, next: Distance, to: &mut [Block]) {
        match rows.coding.group == BLOCK {
            // SAFETY: as above.
            true => unsafe { decode::decode(rows, record, first, next, to) },
            // SAFETY: as above; detection asks for AVX2 wherever it asks for AVX-512.
            false => unsafe { decode_avx2::decode(rows, record, first, next, to) },
        }
    }
}

impl Simd for Avx2 {
    type Lanes = [__m256; 2];

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> [__m256; 2] {
        let halves = from.as_chunks().0;
        // SAFETY: `self` proves the set, here and below.
        unsafe { [floats8(&halves[0]), floats8(&halves[1])] }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], lanes: [__m256; 2]) {
        let halves = to.as_chunks_mut().0;
        // SAFETY: as above.
        unsafe {
            store8(&mut halves[0], lanes[0]);
            store8(&mut halves[1], lanes[1]);
        }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn add_product(self, sum: [__m256; 2], a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        let half = |i: usize| unsafe { _mm256_add_ps(sum[i], _mm256_mul_ps(a[i], b[i])) };
        [half(0), half(1)]
    }

    #[inline(always)]
    fn decode(self, rows: &Rows, record: &Record, first: usize, next: Distance, to: &mut [Block]) {
        // SAFETY: as above.
        unsafe { decode_avx2::decode(rows, record, first, next, to) }
    }
}
