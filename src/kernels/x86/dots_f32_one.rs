//! f32 dots of one column with AVX-512: weights decoded into registers, in the order of `lanes::dot`. One record at a
//! time: four planes of one record stream from memory, sixteen of four do not.

use super::ahead::{self, Distance};
use super::block::Block;
use super::decode::{Decoder, Values, by_coding};
use super::load::{floats, store};
use crate::kernels::columns::{F32Columns, STRIP};
use crate::kernels::lanes::{LANES, fold16};
use crate::kernels::work::Dots;
use crate::quant::Record;
use std::arch::x86_64::*;

/// Records between what is computed and what is asked for: 17 KB at 16 bits and d = 4096.
const AHEAD: usize = 2;

/// Dots of records of one group a block with the only column; `out` is `[micropanels][16]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn dots(work: &Dots<F32Columns>, out: &mut [[f32; LANES]]) {
    let out = out.as_flattened_mut();
    by_coding!(work.rows, records(work, out))
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn records<const BITS: u32, const AFFINE: bool>(work: &Dots<F32Columns>, out: &mut [f32]) {
    let decoder = Decoder::<BITS, AFFINE>::new(work.rows);
    for (out, r) in out.iter_mut().zip(work.first..work.rows.records) {
        *out = dot(&decoder, work, &work.rows.record(r), ahead::records(work.rows, r, AHEAD));
    }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn dot<const BITS: u32, const AFFINE: bool>(
    decoder: &Decoder<BITS, AFFINE>,
    work: &Dots<F32Columns>,
    record: &Record,
    next: Distance,
) -> f32 {
    let mut sum = _mm512_setzero_ps();
    for (strip, x) in work.x.only().chunks(STRIP).enumerate() {
        let first = strip * STRIP;
        let blocks = decoder.blocks(record, first, x.len());
        ahead::scales(work.rows, record.scales, first, next);
        for (block, x) in x.iter().enumerate() {
            ahead::block(work.rows.level, record, first + block, next);
            sum = add(sum, &decoder.values(&blocks, block), x);
        }
    }
    let mut lanes = [0.0; LANES];
    store(&mut lanes, sum);
    fold16(lanes)
}

/// `sum[lane] += values . x`, by rising index.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn add(sum: __m512, values: &Values, x: &Block) -> __m512 {
    let mut sum = sum;
    for (value, x) in values.iter().zip(x) {
        sum = _mm512_add_ps(sum, _mm512_mul_ps(*value, floats(x)));
    }
    sum
}
