//! Accumulations of records: o and down, `y[n] += h[n][j] * record_j`.
//!
//! **Order.** In f32 records are summed by rising id into their chunk's own vector. In integers, at levels 4 and 8, a call
//! adds its records (at most 256) as exact integers times one scale a group ([`super::factors`]). Chunks are
//! added to the result in their order, whoever computed them (docs/design.md, 6), and one that threads share is cut along
//! the model dimension, where elements do not meet: threads change no bit.
//!
//! **Zeros.** In both, a record with a factor of 0, of either sign, gives a chunk's sum the bits it has without the record,
//! as long as its weights are numbers: products are rounded before they are added to a sum that began at +0, so the sum is
//! never -0, and adding 0 of either sign changes nothing else.

use super::columns::STRIP;
use super::cpu::{Arithmetic, Cpu};
use super::factors::Factors;
use super::lanes::LANES;
use super::panel::Panel;
use super::work::{F32Factors, Sums};
use super::{Isa, dispatch};
use crate::quant::Rows;
use crate::types::{BLOCK, Level};
use rayon::prelude::*;

/// Tasks along the model dimension for each thread: more than one, so that a thread that was held up is helped; but one
/// where a single column streams, in pieces of records that are long.
const TASKS: usize = 2;

/// Blocks whose codes kernels take at a time.
const PAIR: usize = 2;

/// The sum of a chunk in the making: N rows, `[blocks][N][64]`, so that neighbouring blocks lie together.
#[derive(Clone, Debug)]
pub struct ChunkSum {
    columns: usize,
    width: usize,
    sums: Vec<f32>,
}

/// N result rows: chunks are added to it in order.
#[derive(Debug)]
pub struct Accumulator(ChunkSum);

impl ChunkSum {
    /// Zeros for a row of `width` elements for each column.
    pub fn new(columns: usize, width: usize) -> ChunkSum {
        ChunkSum { columns, width, sums: vec![0.0; width.div_ceil(BLOCK) * columns * BLOCK] }
    }

    /// N.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Adds `factors[j][n] * rows[j]`, cut along the model dimension for so many `threads`; one reads records from end to
    /// end.
    ///
    /// # Panics
    /// If `factors` is not for these rows and columns, or for more than 256 records.
    pub fn add(&mut self, cpu: &Cpu, rows: &Rows, factors: &Panel, threads: usize) {
        let fits = factors.records() == rows.records && factors.columns() == self.columns && rows.width == self.width;
        assert!(fits, "factors that do not fit rows and outputs");
        let tasks = if self.columns == 1 || threads == 1 { 1 } else { TASKS };
        let blocks = task_blocks(rows.blocks(), threads, tasks);
        cpu.run(|| {
            let factors = Prepared::new(cpu.arithmetic, rows.level, factors);
            self.sums.par_chunks_mut(blocks * self.columns * BLOCK).enumerate().for_each(|(task, sums)| {
                factors.add(cpu.isa, rows, task * blocks, sums);
            });
        });
    }

    /// Rows `[N, width]` as a sum.
    #[cfg(test)]
    pub fn of_rows(rows: &[f32], width: usize) -> ChunkSum {
        let mut sum = ChunkSum::new(rows.len() / width, width);
        for (n, row) in rows.chunks_exact(width).enumerate() {
            for (part, block) in row.chunks(BLOCK).zip(sum.sums.chunks_exact_mut(sum.columns * BLOCK)) {
                block[n * BLOCK..][..part.len()].copy_from_slice(part);
            }
        }
        sum
    }

    /// The sum as rows `[N, width]`.
    pub fn rows(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.columns * self.width];
        for (n, row) in out.chunks_exact_mut(self.width).enumerate() {
            for (part, block) in row.chunks_mut(BLOCK).zip(self.sums.chunks_exact(self.columns * BLOCK)) {
                part.copy_from_slice(&block[n * BLOCK..][..part.len()]);
            }
        }
        out
    }
}

impl Accumulator {
    /// Rows of `width` elements that begin at zero, or at `start` (a bias) each; -0 as +0, so that a chunk of zeros is as
    /// good as none.
    pub fn new(columns: usize, width: usize, start: Option<&[f32]>) -> Accumulator {
        let mut sum = ChunkSum::new(columns, width);
        if let Some(start) = start {
            for (rows, part) in sum.sums.chunks_exact_mut(columns * BLOCK).zip(start.chunks(BLOCK)) {
                let begin = |row: &mut [f32]| row.iter_mut().zip(part).for_each(|(to, from)| *to = from + 0.0);
                rows.chunks_exact_mut(BLOCK).for_each(begin);
            }
        }
        Accumulator(sum)
    }

    /// Adds chunks in their order, on the current rayon pool.
    pub fn fold(&mut self, chunks: &[ChunkSum]) {
        self.0.sums.par_chunks_mut(FOLDED).enumerate().for_each(|(part, sums)| {
            for chunk in chunks {
                sums.iter_mut().zip(&chunk.sums[part * FOLDED..]).for_each(|(sum, chunk)| *sum += chunk);
            }
        });
    }

    /// Adds a chunk.
    pub fn add(&mut self, chunk: &ChunkSum) {
        self.0.sums.iter_mut().zip(&chunk.sums).for_each(|(sum, chunk)| *sum += chunk);
    }

    /// The result, `[N, width]`.
    pub fn finish(self) -> Vec<f32> {
        self.0.rows()
    }
}

/// Blocks of a task where each thread takes `tasks` of them: whole strips, unless pairs keep more threads at work.
fn task_blocks(blocks: usize, threads: usize, tasks: usize) -> usize {
    let share = blocks.div_ceil(tasks * threads);
    let (strips, pairs) = (share.next_multiple_of(STRIP), share.next_multiple_of(PAIR));
    let longest = |size: usize| blocks.div_ceil(size).div_ceil(threads) * size;
    if longest(pairs) < longest(strips) { pairs } else { strips }
}

/// Sums of a task that folds: one stays in the first cache.
const FOLDED: usize = 2048;

/// Factors as their kernel takes them.
enum Prepared {
    Exact(Factors),
    F32(F32Factors),
}

impl Prepared {
    fn new(arithmetic: Arithmetic, level: Level, factors: &Panel) -> Prepared {
        match arithmetic.is_integer(level) {
            true => Prepared::Exact(Factors::new(factors)),
            false => Prepared::F32(by_record(factors)),
        }
    }

    /// Adds rows to the part of a chunk from block `first` on.
    fn add(&self, isa: Isa, rows: &Rows, first: usize, chunk: &mut [f32]) {
        match self {
            Prepared::Exact(factors) => dispatch::sums_exact(isa, &Sums { rows, first, factors }, chunk),
            Prepared::F32(factors) => dispatch::sums_f32(isa, &Sums { rows, first, factors }, chunk),
        }
    }
}

/// A panel's numbers by record.
fn by_record(panel: &Panel) -> F32Factors {
    let columns = panel.columns();
    let mut values = vec![0.0; panel.records() * columns];
    let micropanels = panel.micropanels().chunks_exact(columns.max(1));
    for (rows, micropanel) in values.chunks_mut((LANES * columns).max(1)).zip(micropanels) {
        for (r, row) in rows.chunks_exact_mut(columns).enumerate() {
            row.iter_mut().zip(micropanel).for_each(|(to, lanes)| *to = lanes[r]);
        }
    }
    F32Factors { columns, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_of_zeros_is_as_good_as_none() {
        let bits = |chunks: &[ChunkSum]| {
            let mut sum = Accumulator::new(2, 3, Some(&[-0.0, 1.5, -2.0]));
            sum.fold(chunks);
            sum.finish().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(&[]), bits(&[ChunkSum::new(2, 3)]));
    }

    #[test]
    fn tasks_are_whole_strips_where_those_keep_all_threads_at_work() {
        assert_eq!([1, 2, 4].map(|threads| task_blocks(64, threads, 1)), [64, 32, 16]);
        assert_eq!([1, 2, 4].map(|threads| task_blocks(64, threads, 2)), [32, 16, 16]);
        assert_eq!([3, 5, 8, 16, 32, 40].map(|threads| task_blocks(64, threads, 1)), [22, 14, 8, 4, 2, 2]);
        assert_eq!([1, 2, 14].map(|blocks| task_blocks(blocks, 2, 1)), [2, 2, 8]);
    }
}
