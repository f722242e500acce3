//! Accumulations with AVX-512: four records decoded into registers for every visit to a column's sums, added by rising
//! record, each product rounded first.

use super::super::accumulate::TileWork;
use super::super::lanes::LANES;
use super::block::{self, Decoder};
use super::load::{floats, store};
use crate::config::Form;
use crate::quant::Record;
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Records that share a visit.
const RECORDS: usize = 4;

/// A block's sums for one column.
type Sums = [[f32; LANES]; BLOCK / LANES];

/// Whether this path computes `work`: a group per block.
pub fn takes(work: &TileWork) -> bool {
    block::takes(&work.rows.coding)
}

/// All records into one tile's chunk, `[blocks][N][64]`, of [`takes`] work.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn tile(work: &TileWork, chunk: &mut [f32]) {
    match (work.rows.level, work.rows.coding.form) {
        (Level::L4, Form::Affine) => records::<4, true>(work, chunk),
        (Level::L4, Form::Symmetric) => records::<4, false>(work, chunk),
        (Level::L8, Form::Affine) => records::<8, true>(work, chunk),
        (Level::L8, Form::Symmetric) => records::<8, false>(work, chunk),
        (Level::L16, Form::Affine) => records::<16, true>(work, chunk),
        (Level::L16, Form::Symmetric) => records::<16, false>(work, chunk),
    }
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn records<const BITS: u32, const AFFINE: bool>(work: &TileWork, chunk: &mut [f32]) {
    let decoder = Decoder::<BITS, AFFINE>::new(&work.rows.coding);
    let fours = work.rows.count / RECORDS * RECORDS;
    for first in (0..fours).step_by(RECORDS) {
        some::<BITS, AFFINE, RECORDS>(&decoder, work, first, chunk);
    }
    for first in fours..work.rows.count {
        some::<BITS, AFFINE, 1>(&decoder, work, first, chunk);
    }
}

/// `R` records from `first` on.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn some<const BITS: u32, const AFFINE: bool, const R: usize>(
    decoder: &Decoder<BITS, AFFINE>,
    work: &TileWork,
    first: usize,
    chunk: &mut [f32],
) {
    let records: [Record; R] = std::array::from_fn(|r| work.rows.record(first + r));
    let factors = &work.factors[first * work.count..][..R * work.count];
    let columns = chunk.as_chunks_mut::<LANES>().0.as_chunks_mut::<{ BLOCK / LANES }>().0;
    for (block, columns) in columns.chunks_exact_mut(work.count).enumerate() {
        let mut values = [[_mm512_setzero_ps(); 4]; R];
        for (values, record) in values.iter_mut().zip(&records) {
            *values = decoder.block(record, work.first + block);
        }
        for (n, sums) in columns.iter_mut().enumerate() {
            let factors: [f32; R] = std::array::from_fn(|r| factors[r * work.count + n]);
            add(sums, &values, &factors);
        }
    }
}

/// `sums += factors[r] * values[r]` for r = 0, 1, ...
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn add<const R: usize>(sums: &mut Sums, values: &[[__m512; 4]; R], factors: &[f32; R]) {
    for (i, sums) in sums.iter_mut().enumerate() {
        let mut sum = floats(sums);
        for (values, factor) in values.iter().zip(factors) {
            sum = _mm512_add_ps(sum, _mm512_mul_ps(_mm512_set1_ps(*factor), values[i]));
        }
        store(sums, sum);
    }
}
