//! f32 products with any number of columns and groups of either size: records are decoded once, a strip at a time, into
//! memory that the first cache holds, and multiplied by tiles of records and columns. A single column of groups of 64 has
//! bodies of its own where there is AVX-512.

use super::ahead::{self, both};
use super::block::{Block, Lane, PARTS};
use super::simd::{Avx2, Avx512, Simd};
use super::tile::{self, Strided};
use crate::kernels::columns::{F32Columns, STRIP};
use crate::kernels::lanes::{LANES, fold16};
use crate::kernels::work::{Dots, F32Factors, Sums};
use crate::quant::Rows;
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

/// Blocks that an accumulation decodes at a time: 32 KiB.
const DECODED: usize = 128;

/// Columns times blocks that an accumulation visits together, once for every slab of records: their sums take 64 KiB.
const SUMS: usize = 256;

/// Numbers of such blocks: few records of sixteen stream from memory faster than many of four, and those keep more sums in
/// the caches.
const LENGTHS: RangeInclusive<usize> = 4..=16;

/// What a thread keeps between tasks of dots.
#[derive(Default)]
struct Scratch {
    /// Decoded strips of a micropanel's records, `[16][STRIP][64]`.
    weights: Vec<Block>,
    /// Sums in the making, `[N][16]`.
    lanes: Vec<[Lane; LANES]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Bytes that a thread keeps behind so many columns, the stack of sums among them.
pub fn kept(columns: usize) -> usize {
    let dots = LANES * STRIP * size_of::<Block>() + columns * size_of::<[Lane; LANES]>();
    dots + size_of::<[Block; DECODED]>()
}

/// Dots with AVX-512; `out` is `[micropanels][N][16]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn dots_avx512(work: &Dots<F32Columns>, out: &mut [[f32; LANES]]) {
    SCRATCH.with_borrow_mut(|scratch| dots::<_, 4, 4>(Avx512::new(), work, scratch, out));
}

/// Dots with AVX2; `out` is `[micropanels][N][16]`.
#[target_feature(enable = "avx2")]
pub fn dots_avx2(work: &Dots<F32Columns>, out: &mut [[f32; LANES]]) {
    SCRATCH.with_borrow_mut(|scratch| dots::<_, 2, 2>(Avx2::new(), work, scratch, out));
}

/// Sums with AVX-512; `out` is `[blocks][N][64]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn sums_avx512(work: &Sums<F32Factors>, out: &mut [f32]) {
    sums::<_, 4, 4>(Avx512::new(), work, out);
}

/// Sums with AVX2; `out` is `[blocks][N][64]`.
#[target_feature(enable = "avx2")]
pub fn sums_avx2(work: &Sums<F32Factors>, out: &mut [f32]) {
    sums::<_, 2, 2>(Avx2::new(), work, out);
}

/// Dots by tiles of `R` records and `C` columns.
#[inline(always)]
fn dots<S: Simd, const R: usize, const C: usize>(
    simd: S,
    work: &Dots<F32Columns>,
    scratch: &mut Scratch,
    out: &mut [[f32; LANES]],
) {
    const { assert!(LANES.is_multiple_of(R)) };
    scratch.weights.resize(LANES * STRIP, Block::default());
    scratch.lanes.resize(work.x.columns, Default::default());
    for (i, out) in out.chunks_exact_mut(work.x.columns).enumerate() {
        let records = work.micropanel(i);
        for strip in 0..work.rows.blocks().div_ceil(STRIP) {
            decode(simd, work.rows, records.clone(), strip, &mut scratch.weights);
            multiply::<S, R, C>(simd, work.x, records.len(), strip, scratch);
        }
        for (out, lanes) in out.iter_mut().zip(&scratch.lanes) {
            out.iter_mut().zip(lanes).take(records.len()).for_each(|(out, lanes)| *out = fold16(*lanes));
        }
    }
}

/// Decodes a strip of some records into `[16][STRIP]`.
#[inline(always)]
fn decode<S: Simd>(simd: S, rows: &Rows, records: Range<usize>, strip: usize, weights: &mut [Block]) {
    let (first, end) = (strip * STRIP, rows.blocks().min((strip + 1) * STRIP));
    let last = end == rows.blocks();
    for (r, to) in records.zip(weights.chunks_exact_mut(STRIP)) {
        let next = if last {
            both(ahead::records(rows, r, LANES), ahead::blocks(first, 0))
        } else {
            ahead::blocks(first, end)
        };
        simd.decode(rows, &rows.record(r), first, next, &mut to[..end - first]);
    }
}

/// Adds a decoded strip of so many records to the lanes.
#[inline(always)]
fn multiply<S: Simd, const R: usize, const C: usize>(
    simd: S,
    x: &F32Columns,
    records: usize,
    strip: usize,
    scratch: &mut Scratch,
) {
    let Scratch { weights, lanes } = scratch;
    let columns = x.columns;
    let x = x.strip(strip).as_chunks().0;
    let len = x.len() / columns;
    let strip = Strip {
        weights: Strided { lanes: weights.as_flattened(), stride: STRIP * PARTS, len },
        x: Strided { lanes: x, stride: len, len },
        first: strip == 0,
        records,
    };
    let tiled = columns / C * C;
    strip.columns::<S, R, C>(simd, 0..tiled, lanes.as_flattened_mut());
    strip.columns::<S, R, 2>(simd, tiled..columns / 2 * 2, lanes.as_flattened_mut());
    strip.columns::<S, R, 1>(simd, columns / 2 * 2..columns, lanes.as_flattened_mut());
}

/// A strip of a micropanel's records and of the columns.
struct Strip<'a> {
    weights: Strided<'a>,
    x: Strided<'a>,
    /// Whether sums begin here.
    first: bool,
    records: usize,
}

impl Strip<'_> {
    /// Adds the strip's part to the sums of some columns, `C` at a time; `lanes` is `[N][16]`.
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const C: usize>(&self, simd: S, columns: Range<usize>, lanes: &mut [Lane]) {
        for n in columns.step_by(C) {
            let x = self.x.rows::<C>(n);
            let sums = &mut lanes[n * LANES..(n + C) * LANES];
            for r in (0..self.records).step_by(R) {
                tile::dots(simd, self.weights.rows::<R>(r), x, self.first, &mut sums[r..], LANES);
            }
        }
    }
}

/// Sums by tiles of `C` columns and `P` registers.
#[inline(always)]
fn sums<S: Simd, const C: usize, const P: usize>(simd: S, work: &Sums<F32Factors>, out: &mut [f32]) {
    let columns = work.factors.columns;
    let len = (SUMS / columns).clamp(*LENGTHS.start(), *LENGTHS.end());
    let slab = DECODED / len;
    let mut weights = [Block::default(); DECODED];
    let sums: &mut [Block] = out.as_chunks_mut().0.as_chunks_mut().0;
    for (part, sums) in sums.chunks_mut(len * columns).enumerate() {
        let first = work.first + part * len;
        let blocks = first..first + sums.len() / columns;
        for (i, factors) in work.factors.values.chunks(slab * columns).enumerate() {
            let records = i * slab..i * slab + factors.len() / columns;
            decode_slab(simd, work.rows, records, blocks.clone(), &mut weights, len);
            for (block, sums) in sums.chunks_exact_mut(columns).enumerate() {
                let weights = Slab { weights: &weights[block..], stride: len, factors };
                let tiled = columns / C * C;
                weights.add::<S, C, P>(simd, 0..tiled, sums);
                weights.add::<S, 2, P>(simd, tiled..columns / 2 * 2, sums);
                weights.add::<S, 1, P>(simd, columns / 2 * 2..columns, sums);
            }
        }
    }
}

/// Decodes some blocks of some records into `[records][len]`.
#[inline(always)]
fn decode_slab<S: Simd>(
    simd: S,
    rows: &Rows,
    records: Range<usize>,
    blocks: Range<usize>,
    weights: &mut [Block],
    len: usize,
) {
    let (slab, first, last) = (weights.len() / len, records.start, records.end == rows.records);
    for (r, to) in records.zip(weights.chunks_exact_mut(len)) {
        let next = if last {
            both(ahead::between(rows, r, r - first), ahead::blocks(0, len))
        } else {
            ahead::records(rows, r, slab)
        };
        simd.decode(rows, &rows.record(r), blocks.start, next, &mut to[..blocks.len()]);
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
        let all = sums.len();
        for n in columns.step_by(C) {
            let Some(sums) = sums[n..].first_chunk_mut::<C>() else { return };
            for part in (0..PARTS).step_by(P) {
                let weights = self.weights.iter().step_by(self.stride);
                let factors = self.factors.chunks_exact(all).filter_map(|row| row[n..].first_chunk());
                tile::sums::<S, C, P>(simd, part, weights, factors, sums);
            }
        }
    }
}
