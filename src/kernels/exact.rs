//! Accumulations at levels 4 and 8 in exact integers: the oracle of the hand-written ones.
//!
//! Per group and column: `sum += fma(scale, sum of q_j * code_j, offset)` with `scale = largest h * (largest cell / TOP)`
//! and `offset` the fused sum of `h_j * origin_j` by rising record; `q_j` as in [`super::factors`].

#![forbid(unsafe_code)]

use super::factors::{Factors, TOP, factor, largest};
use crate::quant::{Cells, Rows, cells, codes_u8};
use crate::types::{BLOCK, CHUNK};

/// Half a block: its weights share a group in every coding.
const HALF: usize = BLOCK / 2;

/// What one tile adds.
#[derive(Debug)]
pub struct ExactWork<'a> {
    pub(super) rows: &'a Rows<'a>,
    pub(super) factors: &'a Factors,
    /// The tile's first block.
    pub(super) first: usize,
}

/// One half block of all records.
struct Part {
    codes: Vec<[u8; HALF]>,
    /// Cells over the largest, times TOP.
    shares: Vec<f32>,
    origins: Vec<f32>,
    /// The largest cell over TOP.
    unit: f32,
}

/// All records into one tile's chunk, `[blocks][N][64]`.
#[inline(always)]
pub(super) fn tile(work: &ExactWork, chunk: &mut [f32]) {
    for (block, sums) in chunk.chunks_exact_mut(work.factors.count * BLOCK).enumerate() {
        for half in [0, 1] {
            let part = Part::new(work.rows, work.first + block, half);
            for (n, sums) in sums.as_chunks_mut::<HALF>().0.iter_mut().skip(half).step_by(2).enumerate() {
                part.add(work.factors, n, sums);
            }
        }
    }
}

impl Part {
    #[inline(always)]
    fn new(rows: &Rows, block: usize, half: usize) -> Part {
        let group = (block * BLOCK + half * HALF) / rows.coding.group;
        let (mut codes, mut of_records) = (Vec::with_capacity(CHUNK), Vec::<Cells>::with_capacity(CHUNK));
        for record in (0..rows.count).map(|r| rows.record(r)) {
            codes.push(codes_u8(rows.level, &record, block)[half]);
            of_records.push(cells(&rows.coding, rows.level, record.scales, group));
        }
        let widths: Vec<f32> = of_records.iter().map(|c| c.width).collect();
        let (most, origins) = (largest(&widths), of_records.iter().map(|c| c.origin).collect());
        let shares = widths.into_iter().map(|width| width * (TOP / most)).collect();
        Part { codes, shares, origins, unit: most / TOP }
    }

    #[inline(always)]
    fn add(&self, factors: &Factors, n: usize, sums: &mut [f32; HALF]) {
        let (mut dots, mut offset) = ([0i32; HALF], 0.0f32);
        for (r, codes) in self.codes.iter().enumerate() {
            let q = factor(factors.units(n)[r], self.shares[r]);
            dots.iter_mut().zip(codes).for_each(|(dot, code)| *dot += q * i32::from(*code));
            offset = factors.raw(n)[r].mul_add(self.origins[r], offset);
        }
        let scale = factors.largest(n) * self.unit;
        sums.iter_mut().zip(dots).for_each(|(sum, dot)| *sum += scale.mul_add(dot as f32, offset));
    }
}
