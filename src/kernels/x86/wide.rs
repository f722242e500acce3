//! f32 products with several columns: records are decoded once, a run of blocks at a time, into memory that the first
//! cache holds, and multiplied by tiles of records and columns.

use super::super::accumulate::TileWork;
use super::super::lanes::{LANES, fold16};
use super::super::project::{RUN, RowWork, TASK, in_tile};
use super::ahead::{self, less};
use super::simd::{Avx2, Avx512, Simd};
use super::tile::{self, Block, Lane, Matrix, PARTS};
use crate::quant::Rows;
use crate::types::BLOCK;
use std::ops::{Range, RangeInclusive};

/// Blocks that an accumulation decodes at a time: 32 KiB.
const DECODED: usize = 128;

/// Columns times blocks of a run of an accumulation: their sums, 64 KiB, are visited once for every slab of records.
const SUMS: usize = 256;

/// Blocks of such a run: few records of sixteen stream from memory faster than many of four, and those keep more sums in
/// the caches.
const RUNS: RangeInclusive<usize> = 4..=16;

/// Records `first..` with AVX-512.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn dots_avx512(work: &mut RowWork, first: usize, out: &mut [[f32; LANES]]) {
    dots::<_, 4, 4>(Avx512::new(), work, first, out);
}

/// Records `first..` with AVX2.
#[target_feature(enable = "avx2")]
pub fn dots_avx2(work: &mut RowWork, first: usize, out: &mut [[f32; LANES]]) {
    dots::<_, 2, 2>(Avx2::new(), work, first, out);
}

/// One tile of an accumulation with AVX-512.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn sums_avx512(work: &TileWork, chunk: &mut [f32]) {
    sums::<_, 4, 4>(Avx512::new(), work, chunk);
}

/// One tile of an accumulation with AVX2.
#[target_feature(enable = "avx2")]
pub fn sums_avx2(work: &TileWork, chunk: &mut [f32]) {
    sums::<_, 2, 2>(Avx2::new(), work, chunk);
}

/// Records `first..` by tiles of `R` records and `C` columns; `out` is `[tiles][N][16]`.
#[inline(always)]
fn dots<S: Simd, const R: usize, const C: usize>(simd: S, work: &mut RowWork, first: usize, out: &mut [[f32; LANES]]) {
    work.lanes.resize(work.inputs.count * TASK, [0.0; LANES]);
    for (tile, out) in out.chunks_exact_mut(work.inputs.count).enumerate() {
        task::<S, R, C>(simd, work, first + tile * TASK, out);
    }
}

/// Records `first..` that fill a tile; `out` is `[N][16]`.
#[inline(always)]
fn task<S: Simd, const R: usize, const C: usize>(simd: S, work: &mut RowWork, first: usize, out: &mut [[f32; LANES]]) {
    const { assert!(TASK.is_multiple_of(R) && TASK == LANES) };
    let (blocks, records) = (work.rows.blocks(), in_tile(work.rows, first));
    for start in (0..blocks).step_by(RUN) {
        let run = start..blocks.min(start + RUN);
        decode(simd, work, first..first + records, run.clone());
        multiply::<S, R, C>(simd, work, records, run);
    }
    for (out, lanes) in out.iter_mut().zip(work.lanes.as_chunks::<TASK>().0) {
        out.iter_mut().zip(lanes).take(records).for_each(|(out, lanes)| *out = fold16(*lanes));
    }
}

/// Decodes a run of blocks of some records into the work's weights, `[TASK][RUN][64]`.
#[inline(always)]
fn decode<S: Simd>(simd: S, work: &mut RowWork, records: Range<usize>, run: Range<usize>) {
    let rows = work.rows;
    let last = run.end == rows.blocks();
    let next = if last { less(ahead::records(rows, TASK), ahead::blocks(run.start)) } else { ahead::blocks(RUN) };
    work.weights.resize(TASK * RUN * BLOCK, 0.0);
    let weights: &mut [Block] = work.weights.as_chunks_mut().0.as_chunks_mut().0;
    for (r, to) in records.zip(weights.chunks_exact_mut(RUN)) {
        simd.decode(rows, &rows.record(r), run.start, next, &mut to[..run.len()]);
    }
}

/// Adds a decoded run's part to the work's lanes, `[N][TASK]`.
#[inline(always)]
fn multiply<S: Simd, const R: usize, const C: usize>(simd: S, work: &mut RowWork, records: usize, run: Range<usize>) {
    let (count, len) = (work.inputs.count, run.len() * PARTS);
    let x = work.inputs.run(run.start / RUN).as_chunks().0;
    let run = Run {
        weights: Matrix { lanes: work.weights.as_chunks().0, stride: RUN * PARTS, len },
        x: Matrix { lanes: x, stride: len, len },
        first: run.start == 0,
        records,
    };
    let tiled = count / C * C;
    run.columns::<S, R, C>(simd, 0..tiled, &mut work.lanes);
    run.columns::<S, R, 2>(simd, tiled..count / 2 * 2, &mut work.lanes);
    run.columns::<S, R, 1>(simd, count / 2 * 2..count, &mut work.lanes);
}

/// A run of blocks of a task's records and of the columns.
struct Run<'a> {
    weights: Matrix<'a>,
    x: Matrix<'a>,
    /// Whether sums begin here.
    first: bool,
    records: usize,
}

impl Run<'_> {
    /// Adds the run's part to the sums of some columns, `C` at a time; `lanes` is `[N][TASK]`.
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const C: usize>(&self, simd: S, columns: Range<usize>, lanes: &mut [Lane]) {
        for n in columns.step_by(C) {
            let x = self.x.rows::<C>(n);
            let sums = &mut lanes[n * TASK..(n + C) * TASK];
            for r in (0..self.records).step_by(R) {
                tile::dots(simd, self.weights.rows::<R>(r), x, self.first, &mut sums[r..], TASK);
            }
        }
    }
}

/// All records into one tile's chunk, `[blocks][N][64]`, by tiles of `C` columns and `P` registers.
#[inline(always)]
fn sums<S: Simd, const C: usize, const P: usize>(simd: S, work: &TileWork, chunk: &mut [f32]) {
    let count = work.count;
    let len = (SUMS / count).clamp(*RUNS.start(), *RUNS.end());
    let slab = DECODED / len;
    let mut weights = [Block::default(); DECODED];
    let sums: &mut [Block] = chunk.as_chunks_mut().0.as_chunks_mut().0;
    for (run, sums) in sums.chunks_mut(len * count).enumerate() {
        let first = work.first + run * len;
        let run = first..first + sums.len() / count;
        for (i, factors) in work.factors.chunks(slab * count).enumerate() {
            let records = i * slab..i * slab + factors.len() / count;
            decode_slab(simd, work.rows, records, run.clone(), &mut weights, len);
            for (block, sums) in sums.chunks_exact_mut(count).enumerate() {
                let weights = Slab { weights: &weights[block..], stride: len, factors };
                let tiled = count / C * C;
                weights.add::<S, C, P>(simd, 0..tiled, sums);
                weights.add::<S, 2, P>(simd, tiled..count / 2 * 2, sums);
                weights.add::<S, 1, P>(simd, count / 2 * 2..count, sums);
            }
        }
    }
}

/// Decodes a run of blocks of some records into `[records][len]`.
#[inline(always)]
fn decode_slab<S: Simd>(
    simd: S,
    rows: &Rows,
    records: Range<usize>,
    run: Range<usize>,
    weights: &mut [Block],
    len: usize,
) {
    let slab = weights.len() / len;
    let last = records.end == rows.count;
    let next =
        if last { less(ahead::blocks(len), ahead::records(rows, records.start)) } else { ahead::records(rows, slab) };
    for (r, to) in records.zip(weights.chunks_exact_mut(len)) {
        simd.decode(rows, &rows.record(r), run.start, next, &mut to[..run.len()]);
    }
}

/// A block of some records, every `stride`-th of `weights`, and their factors `[records][N]`.
struct Slab<'a> {
    weights: &'a [Block],
    stride: usize,
    factors: &'a [f32],
}

impl Slab<'_> {
    /// Adds the records to some columns' `sums [N]`, `C` at a time.
    #[inline(always)]
    fn add<S: Simd, const C: usize, const P: usize>(&self, simd: S, columns: Range<usize>, sums: &mut [Block]) {
        let count = sums.len();
        for n in columns.step_by(C) {
            let Some(sums) = sums[n..].first_chunk_mut::<C>() else { return };
            for part in (0..PARTS).step_by(P) {
                let weights = self.weights.iter().step_by(self.stride);
                let factors = self.factors.chunks_exact(count).filter_map(|row| row[n..].first_chunk());
                tile::sums::<S, C, P>(simd, part, weights, factors, sums);
            }
        }
    }
}
