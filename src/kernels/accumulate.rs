//! Accumulations of records: o and down, `y[n] += h[n][j] * record_j`.
//!
//! **Order.** Records are summed by rising id into their chunk's own f32 vector; closed chunks are added to the result by
//! rising chunk (DESIGN 6). Work is cut along the model dimension, where elements do not meet, so threads change no bit.

use super::lanes::axpy;
use super::{Isa, x86};
use crate::quant::{Rows, values};
use crate::types::BLOCK;
use rayon::prelude::*;

/// Tiles along the model dimension: enough for the pool to balance, wide enough to pay for a task.
const TILES: usize = 8;

/// Blocks `first..` of the model dimension.
#[derive(Debug)]
struct Tile {
    first: usize,
    blocks: usize,
    /// `[N][blocks * 64]`, the open chunk.
    chunk: Vec<f32>,
    /// The same, closed chunks folded.
    sum: Vec<f32>,
}

/// N result rows in the making.
#[derive(Debug)]
pub struct Accumulator {
    count: usize,
    width: usize,
    tiles: Vec<Tile>,
}

/// What one tile adds.
#[derive(Debug)]
pub struct TileWork<'a> {
    rows: &'a Rows<'a>,
    /// `[records][N]`.
    factors: &'a [f32],
    count: usize,
    first: usize,
}

impl Accumulator {
    /// Rows of `width` elements that begin at zero, or at `start` (a bias) each.
    pub fn new(count: usize, width: usize, start: Option<&[f32]>) -> Accumulator {
        let blocks = width.div_ceil(BLOCK);
        let step = blocks.div_ceil(TILES);
        let tile = |first: usize| Tile::new(first, step.min(blocks - first), count, start);
        Accumulator { count, width, tiles: (0..blocks).step_by(step).map(tile).collect() }
    }

    /// Adds `factors[j][n] * rows[j]` to the open chunk, on the current rayon pool.
    ///
    /// # Panics
    /// If `factors` is not `[records][N]`.
    pub fn add(&mut self, isa: Isa, rows: &Rows, factors: &[f32]) {
        let count = self.count;
        assert_eq!(factors.len(), rows.count * count, "factors that do not fit rows and outputs");
        self.tiles.par_iter_mut().for_each(|tile| {
            let work = TileWork { rows, factors, count, first: tile.first };
            x86::accumulate_tile(isa, &work, &mut tile.chunk);
        });
    }

    /// Folds the open chunk into the result and begins the next.
    pub fn close_chunk(&mut self) {
        for tile in &mut self.tiles {
            tile.sum.iter_mut().zip(&mut tile.chunk).for_each(|(sum, chunk)| *sum += std::mem::take(chunk));
        }
    }

    /// Takes the open chunk as `[N, width]` instead of folding it, and begins the next.
    pub fn take_chunk(&mut self) -> Vec<f32> {
        let rows = self.rows(|tile| &tile.chunk);
        self.tiles.iter_mut().for_each(|tile| tile.chunk.fill(0.0));
        rows
    }

    /// The result, `[N, width]`.
    pub fn finish(self) -> Vec<f32> {
        self.rows(|tile| &tile.sum)
    }

    fn rows(&self, part: impl Fn(&Tile) -> &Vec<f32>) -> Vec<f32> {
        let mut out = vec![0.0; self.count * self.width];
        for (n, row) in out.chunks_exact_mut(self.width).enumerate() {
            for tile in &self.tiles {
                let (at, len) = (tile.first * BLOCK, tile.blocks * BLOCK);
                let end = (at + len).min(self.width);
                row[at..end].copy_from_slice(&part(tile)[n * len..n * len + end - at]);
            }
        }
        out
    }
}

impl Tile {
    fn new(first: usize, blocks: usize, count: usize, start: Option<&[f32]>) -> Tile {
        let len = blocks * BLOCK;
        let mut sum = vec![0.0; count * len];
        if let Some(start) = start {
            let part = &start[first * BLOCK..start.len().min(first * BLOCK + len)];
            sum.chunks_exact_mut(len).for_each(|row| row[..part.len()].copy_from_slice(part));
        }
        Tile { first, blocks, chunk: vec![0.0; count * len], sum }
    }
}

/// All records into one tile's chunk.
#[inline(always)]
pub(super) fn tile(work: &TileWork, chunk: &mut [f32]) {
    let mut weights = [0.0; BLOCK];
    let len = chunk.len() / work.count;
    for (r, factors) in work.factors.chunks_exact(work.count).enumerate() {
        let record = work.rows.record(r);
        for block in 0..len / BLOCK {
            values(&work.rows.coding, work.rows.level, &record, work.first + block, &mut weights);
            for (row, factor) in chunk.chunks_exact_mut(len).zip(factors) {
                axpy(&mut row[block * BLOCK..(block + 1) * BLOCK], *factor, &weights);
            }
        }
    }
}
