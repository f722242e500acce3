//! f32 dots with AVX-512: weights decoded into registers, four records at a time so that their sums do not wait for
//! each other, in the order of `lanes::dot`.

use super::super::lanes::{LANES, fold16};
use super::super::project::RowWork;
use super::block::{self, Blocks, Decoder, RUN, Values};
use super::load::{floats, store};
use crate::config::Form;
use crate::quant::{Record, Rows};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Registers of a block.
const PARTS: usize = BLOCK / LANES;

/// Records that share a pass over the activations.
const RECORDS: usize = 4;

/// Whether this path computes the rows of `work`: f32 with a group per block.
pub fn takes(work: &RowWork) -> bool {
    work.int8().is_none() && block::takes(&work.rows.coding)
}

/// Records `first..` of [`takes`] work; `out` is `[records][N]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn task(work: &mut RowWork, first: usize, out: &mut [f32]) {
    match (work.rows.level, work.rows.coding.form) {
        (Level::L4, Form::Affine) => records::<4, true>(work, first, out),
        (Level::L4, Form::Symmetric) => records::<4, false>(work, first, out),
        (Level::L8, Form::Affine) => records::<8, true>(work, first, out),
        (Level::L8, Form::Symmetric) => records::<8, false>(work, first, out),
        (Level::L16, Form::Affine) => records::<16, true>(work, first, out),
        (Level::L16, Form::Symmetric) => records::<16, false>(work, first, out),
    }
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn records<const BITS: u32, const AFFINE: bool>(work: &mut RowWork, first: usize, out: &mut [f32]) {
    let decoder = Decoder::<BITS, AFFINE>::new(work.rows);
    let count = work.inputs.count;
    let fours = out.len() / (RECORDS * count) * RECORDS;
    let (whole, rest) = out.split_at_mut(fours * count);
    for (four, out) in whole.chunks_exact_mut(RECORDS * count).enumerate() {
        some::<BITS, AFFINE, RECORDS>(&decoder, work, first + RECORDS * four, out);
    }
    for (r, out) in rest.chunks_exact_mut(count).enumerate() {
        some::<BITS, AFFINE, 1>(&decoder, work, first + fours + r, out);
    }
}

/// `R` records from `first` on; `out` is `[R][N]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn some<const BITS: u32, const AFFINE: bool, const R: usize>(
    decoder: &Decoder<BITS, AFFINE>,
    work: &mut RowWork,
    first: usize,
    out: &mut [f32],
) {
    let (rows, count): (&Rows, usize) = (work.rows, work.inputs.count);
    let records: [Record; R] = std::array::from_fn(|r| rows.record(first + r));
    let x = work.inputs.padded.as_chunks::<LANES>().0;
    let parts = rows.blocks() * PARTS;
    let sums = &mut work.lanes.as_chunks_mut::<R>().0[..count];
    sums.fill([[0.0; LANES]; R]);
    for first in (0..rows.blocks()).step_by(RUN) {
        let run = RUN.min(rows.blocks() - first);
        let blocks: [Blocks; R] = std::array::from_fn(|r| decoder.blocks(&records[r], first, run));
        records.iter().for_each(|record| decoder.ahead(rows, record, first, run, R));
        for block in 0..run {
            let mut values = [[_mm512_setzero_ps(); PARTS]; R];
            values.iter_mut().zip(&blocks).for_each(|(values, blocks)| *values = decoder.values(blocks, block));
            let at = (first + block) * PARTS;
            for (sums, x) in sums.iter_mut().zip(x.chunks_exact(parts)) {
                if let Some(x) = x[at..].first_chunk() {
                    add(sums, &values, x);
                }
            }
        }
    }
    for (n, sums) in sums.iter().enumerate() {
        for (r, sum) in sums.iter().enumerate() {
            out[r * count + n] = fold16(*sum);
        }
    }
}

/// `sums[r][lane] += values[r] * x`, by rising index.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn add<const R: usize>(sums: &mut [[f32; LANES]; R], values: &[Values; R], x: &[[f32; LANES]; PARTS]) {
    for (sum, values) in sums.iter_mut().zip(values) {
        let mut lanes = floats(sum);
        for (value, x) in values.iter().zip(x) {
            lanes = _mm512_add_ps(lanes, _mm512_mul_ps(*value, floats(x)));
        }
        store(sum, lanes);
    }
}
