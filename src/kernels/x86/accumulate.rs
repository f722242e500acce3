//! Accumulations with AVX-512: four records decoded into registers for every visit to a column's sums, added by rising
//! record, each product rounded first.

use super::super::accumulate::TileWork;
use super::super::lanes::LANES;
use super::block::{self, Blocks, Decoder, RUN, Values};
use super::load::{floats, store};
use crate::config::Form;
use crate::quant::Record;
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Registers of a block.
const PARTS: usize = BLOCK / LANES;

/// Records that share a visit.
const RECORDS: usize = 4;

/// A block's sums for one column.
type Sums = [[f32; LANES]; PARTS];

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
    let decoder = Decoder::<BITS, AFFINE>::new(work.rows);
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
    let sums = chunk.as_chunks_mut::<LANES>().0.as_chunks_mut::<PARTS>().0;
    for (run, sums) in sums.chunks_mut(RUN * work.count).enumerate() {
        let (first, count) = (work.first + run * RUN, sums.len() / work.count);
        let blocks: [Blocks; R] = std::array::from_fn(|r| decoder.blocks(&records[r], first, count));
        records.iter().for_each(|record| decoder.ahead(work.rows, record, first, count, R));
        match factors.first_chunk::<R>() {
            Some(factors) if work.count == 1 => add_one(decoder, &blocks, factors, sums),
            _ => add_many(decoder, &blocks, factors, sums),
        }
    }
}

/// `sums[block] += factors[r] * blocks[r][block]` for r = 0, 1, ...
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn add_one<const BITS: u32, const AFFINE: bool, const R: usize>(
    decoder: &Decoder<BITS, AFFINE>,
    blocks: &[Blocks; R],
    factors: &[f32; R],
    sums: &mut [Sums],
) {
    for (block, sums) in sums.iter_mut().enumerate() {
        let mut sum = load(sums);
        for (blocks, factor) in blocks.iter().zip(factors) {
            let products = decoder.products(blocks, block, _mm512_set1_ps(*factor));
            sum.iter_mut().zip(products).for_each(|(sum, product)| *sum = _mm512_add_ps(*sum, product));
        }
        put(sums, &sum);
    }
}

/// The same for several columns: `factors` is `[R][N]`, `sums` `[blocks][N]`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn add_many<const BITS: u32, const AFFINE: bool, const R: usize>(
    decoder: &Decoder<BITS, AFFINE>,
    blocks: &[Blocks; R],
    factors: &[f32],
    sums: &mut [Sums],
) {
    let count = factors.len() / R;
    for (block, sums) in sums.chunks_exact_mut(count).enumerate() {
        let mut values = [[_mm512_setzero_ps(); PARTS]; R];
        values.iter_mut().zip(blocks).for_each(|(values, blocks)| *values = decoder.values(blocks, block));
        for (n, sums) in sums.iter_mut().enumerate() {
            let mut sum = load(sums);
            for (r, values) in values.iter().enumerate() {
                let factor = _mm512_set1_ps(factors[r * count + n]);
                sum.iter_mut().zip(values).for_each(|(sum, v)| *sum = _mm512_add_ps(*sum, _mm512_mul_ps(factor, *v)));
            }
            put(sums, &sum);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn load(sums: &Sums) -> Values {
    [floats(&sums[0]), floats(&sums[1]), floats(&sums[2]), floats(&sums[3])]
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn put(sums: &mut Sums, values: &Values) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| store(sum, *value));
}
