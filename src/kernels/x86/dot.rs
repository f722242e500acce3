//! f32 dots of one column with AVX-512: weights decoded into registers, in the order of `lanes::dot`. One record at a
//! time: four planes of one record stream from memory, sixteen of four do not.

use super::super::lanes::{LANES, fold16};
use super::super::project::{RUN, RowWork, in_tile};
use super::ahead::{self, Far};
use super::block::{self, Decoder, Values};
use super::load::{floats, store};
use super::tile::Block;
use crate::config::Form;
use crate::quant::Record;
use crate::types::Level;
use std::arch::x86_64::*;

/// Records between what is computed and what is asked for: 17 KB at 16 bits and d = 4096.
const AHEAD: usize = 2;

/// Whether this path computes the rows of `work`: f32 with one column and a group per block.
pub fn takes(work: &RowWork) -> bool {
    work.int8().is_none() && work.inputs.count == 1 && block::takes(&work.rows.coding)
}

/// Records `first..` of [`takes`] work; `out` is `[tiles][16]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn task(work: &RowWork, first: usize, out: &mut [[f32; LANES]]) {
    for (tile, out) in out.iter_mut().enumerate() {
        let first = first + tile * LANES;
        let out = &mut out[..in_tile(work.rows, first)];
        match (work.rows.level, work.rows.coding.form) {
            (Level::L4, Form::Affine) => records::<4, true>(work, first, out),
            (Level::L4, Form::Symmetric) => records::<4, false>(work, first, out),
            (Level::L8, Form::Affine) => records::<8, true>(work, first, out),
            (Level::L8, Form::Symmetric) => records::<8, false>(work, first, out),
            (Level::L16, Form::Affine) => records::<16, true>(work, first, out),
            (Level::L16, Form::Symmetric) => records::<16, false>(work, first, out),
        }
    }
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn records<const BITS: u32, const AFFINE: bool>(work: &RowWork, first: usize, out: &mut [f32]) {
    let decoder = Decoder::<BITS, AFFINE>::new(work.rows);
    let next = ahead::records(work.rows, AHEAD);
    for (r, out) in out.iter_mut().enumerate() {
        *out = one(&decoder, work, &work.rows.record(first + r), next);
    }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn one<const BITS: u32, const AFFINE: bool>(
    decoder: &Decoder<BITS, AFFINE>,
    work: &RowWork,
    record: &Record,
    next: Far,
) -> f32 {
    let mut sum = _mm512_setzero_ps();
    for (run, x) in work.inputs.column().chunks(RUN).enumerate() {
        let first = run * RUN;
        let blocks = decoder.blocks(record, first, x.len());
        ahead::scales(work.rows, record, first, next);
        for (block, x) in x.iter().enumerate() {
            ahead::ahead(work.rows.level, record, first + block, next);
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
