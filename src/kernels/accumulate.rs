//! Accumulations of records: o and down, `y[n] += h[n][j] * record_j`.
//!
//! **Order.** In f32 records are summed by rising id into their chunk's own vector. With int8 activations, at levels 4 and
//! 8, a call adds its records (at most 256) as exact integers times one scale a group ([`super::exact`]). Closed chunks
//! are added to the result by rising chunk (docs/design.md, 6). Work is cut along the model dimension, where elements do
//! not meet, so threads change no bit.

use super::factors::Factors;
use super::lanes::LANES;
use super::panel::Panel;
use super::work::{F32Factors, Sums};
use super::{Isa, dispatch};
use crate::quant::Rows;
use crate::types::{BLOCK, Level};
use rayon::prelude::*;

/// Tiles along the model dimension for each thread: more than one, so that a thread that was held up is helped.
const TILES: usize = 2;

/// Blocks whose cells and scales kernels take at a time.
const RUN: usize = 16;

/// Blocks whose codes kernels take at a time.
const PAIR: usize = 2;

/// N result rows in the making, `[blocks][N][64]`: any run of blocks is a tile.
#[derive(Debug)]
pub struct Accumulator {
    count: usize,
    width: usize,
    /// Whether levels 4 and 8 are summed in integers.
    int8: bool,
    /// The open chunk.
    chunk: Vec<f32>,
    /// Closed chunks, folded.
    sum: Vec<f32>,
}

impl Accumulator {
    /// Rows of `width` elements that begin at zero, or at `start` (a bias) each; `int8` sums levels 4 and 8 in integers.
    pub fn new(count: usize, width: usize, start: Option<&[f32]>, int8: bool) -> Accumulator {
        let mut sum = vec![0.0; width.div_ceil(BLOCK) * count * BLOCK];
        if let Some(start) = start {
            for (rows, part) in sum.chunks_exact_mut(count * BLOCK).zip(start.chunks(BLOCK)) {
                rows.chunks_exact_mut(BLOCK).for_each(|row| row[..part.len()].copy_from_slice(part));
            }
        }
        Accumulator { count, width, int8, chunk: vec![0.0; sum.len()], sum }
    }

    /// Adds `factors[j][n] * rows[j]` to the open chunk, on the current rayon pool.
    ///
    /// # Panics
    /// If `factors` is not for these rows and columns, or for more than 256 records.
    pub fn add(&mut self, isa: Isa, rows: Rows, factors: &Panel) {
        self.add_all(isa, vec![Step { rows, factors, closes: false }]);
    }

    /// The same for several runs of records, in order: the pool meets once for all of them.
    ///
    /// # Panics
    /// As `add`.
    pub fn add_all(&mut self, isa: Isa, steps: Vec<Step>) {
        let fits = |step: &Step| step.factors.records() == step.rows.count && step.factors.count() == self.count;
        assert!(steps.iter().all(fits), "factors that do not fit rows and outputs");
        let Some(blocks) = steps.first().map(|step| step.rows.blocks()) else { return };
        let ready: Vec<Ready> = steps.into_iter().map(|step| Ready::new(step, self.int8)).collect();
        let blocks = tile_blocks(blocks, rayon::current_num_threads(), self.tiles());
        let size = blocks * self.count * BLOCK;
        let tiles = self.chunk.par_chunks_mut(size).zip(self.sum.par_chunks_mut(size));
        tiles.enumerate().for_each(|(tile, (chunk, sum))| {
            for step in &ready {
                step.add(isa, tile * blocks, chunk);
                if step.closes {
                    fold(sum, chunk);
                }
            }
        });
    }

    /// Tiles for each thread: one where a single column streams, in pieces of records that are long.
    fn tiles(&self) -> usize {
        if self.count == 1 { 1 } else { TILES }
    }

    /// Folds the open chunk into the result and begins the next.
    pub fn close_chunk(&mut self) {
        fold(&mut self.sum, &mut self.chunk);
    }

    /// Takes the open chunk as `[N, width]` instead of folding it, and begins the next.
    pub fn take_chunk(&mut self) -> Vec<f32> {
        let rows = self.rows(&self.chunk);
        self.chunk.fill(0.0);
        rows
    }

    /// The result, `[N, width]`.
    pub fn finish(self) -> Vec<f32> {
        self.rows(&self.sum)
    }

    fn rows(&self, blocks: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.count * self.width];
        for (n, row) in out.chunks_exact_mut(self.width).enumerate() {
            for (part, block) in row.chunks_mut(BLOCK).zip(blocks.chunks_exact(self.count * BLOCK)) {
                part.copy_from_slice(&block[n * BLOCK..][..part.len()]);
            }
        }
        out
    }
}

/// Blocks of a tile where each thread takes `tiles` of them: whole runs, unless pairs keep more threads at work.
fn tile_blocks(blocks: usize, threads: usize, tiles: usize) -> usize {
    let share = blocks.div_ceil(tiles * threads);
    let (runs, pairs) = (share.next_multiple_of(RUN), share.next_multiple_of(PAIR));
    let longest = |size: usize| blocks.div_ceil(size).div_ceil(threads) * size;
    if longest(pairs) < longest(runs) { pairs } else { runs }
}

/// A run of records with its factors.
#[derive(Debug)]
pub struct Step<'a> {
    /// At most 256 records.
    pub rows: Rows<'a>,
    /// One for every record and column.
    pub factors: &'a Panel,
    /// Whether its chunk ends with it.
    pub closes: bool,
}

/// A step with its factors as its kernel takes them.
struct Ready<'a> {
    rows: Rows<'a>,
    factors: Kind,
    closes: bool,
}

enum Kind {
    Exact(Factors),
    F32(F32Factors),
}

impl Ready<'_> {
    fn new(step: Step, int8: bool) -> Ready {
        let factors = match int8 && step.rows.level != Level::L16 {
            true => Kind::Exact(Factors::new(step.factors)),
            false => Kind::F32(by_record(step.factors)),
        };
        Ready { rows: step.rows, factors, closes: step.closes }
    }

    /// Adds the step to one tile of the open chunk, from block `first` on.
    fn add(&self, isa: Isa, first: usize, chunk: &mut [f32]) {
        let rows = &self.rows;
        match &self.factors {
            Kind::Exact(factors) => dispatch::sums_exact(isa, &Sums { rows, first, factors }, chunk),
            Kind::F32(factors) => dispatch::sums_f32(isa, &Sums { rows, first, factors }, chunk),
        }
    }
}

/// `sum += chunk`, which begins anew.
fn fold(sum: &mut [f32], chunk: &mut [f32]) {
    sum.iter_mut().zip(chunk).for_each(|(sum, chunk)| *sum += std::mem::take(chunk));
}

/// A panel's numbers by record.
fn by_record(panel: &Panel) -> F32Factors {
    let count = panel.count();
    let mut values = vec![0.0; panel.records() * count];
    let micropanels = panel.micropanels().chunks_exact(count.max(1));
    for (rows, micropanel) in values.chunks_mut((LANES * count).max(1)).zip(micropanels) {
        for (r, row) in rows.chunks_exact_mut(count).enumerate() {
            row.iter_mut().zip(micropanel).for_each(|(to, lanes)| *to = lanes[r]);
        }
    }
    F32Factors { count, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_whole_runs_where_those_keep_all_threads_at_work() {
        assert_eq!([1, 2, 4].map(|threads| tile_blocks(64, threads, 1)), [64, 32, 16]);
        assert_eq!([1, 2, 4].map(|threads| tile_blocks(64, threads, 2)), [32, 16, 16]);
        assert_eq!([3, 5, 8, 16, 32, 40].map(|threads| tile_blocks(64, threads, 1)), [22, 14, 8, 4, 2, 2]);
        assert_eq!([1, 2, 14].map(|blocks| tile_blocks(blocks, 2, 1)), [2, 2, 8]);
    }
}
