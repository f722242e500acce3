//! Accumulations at levels 4 and 8 in exact integers: the oracle of the hand-written ones.
//!
//! Per group and column: `sum += fma(most / TOP, sum of q_j * code_j, offset)` with `most` the largest `|h_j * cell_j|`
//! and `offset` the fused sum of `h_j * origin_j` by rising record; `q_j` as in [`crate::kernels::factors`].

use crate::kernels::columns::HALF;
use crate::kernels::factors::{Factors, TOP, factor, largest, share};
use crate::kernels::work::Sums;
use crate::quant::{Cells, Record, Rows, cells, codes_u8};
use crate::types::{BLOCK, CHUNK};

/// One half block of all records.
struct Part {
    codes: Vec<[u8; HALF]>,
    cells: Vec<Cells>,
}

/// In exact integers; `out` is `[blocks][N][64]`.
#[inline(always)]
pub fn sums_exact(work: &Sums<Factors>, out: &mut [f32]) {
    for (block, sums) in out.chunks_exact_mut(work.factors.columns * BLOCK).enumerate() {
        for half in [0, 1] {
            let part = Part::new(work.rows, work.first + block, half);
            for (n, sums) in sums.as_chunks_mut::<HALF>().0.iter_mut().skip(half).step_by(2).enumerate() {
                part.add(work.factors.column(n), sums);
            }
        }
    }
}

impl Part {
    #[inline(always)]
    fn new(rows: &Rows, block: usize, half: usize) -> Part {
        let group = (block * BLOCK + half * HALF) / rows.coding.group;
        let records = (0..rows.records).map(|r| rows.record(r));
        let read = |record: Record| {
            (codes_u8(rows.level, &record, block)[half], cells(&rows.coding, rows.level, record.scales, group))
        };
        let (codes, cells) = records.map(read).unzip();
        Part { codes, cells }
    }

    /// Adds one column's sums; `numbers` are its factors by record.
    #[inline(always)]
    fn add(&self, numbers: &[f32; CHUNK], sums: &mut [f32; HALF]) {
        let mut products = [0.0; CHUNK];
        products.iter_mut().zip(numbers).zip(&self.cells).for_each(|((p, h), cells)| *p = h * cells.width);
        let most = largest(&products);
        let (share, mut dots, mut offset) = (share(most), [0i32; HALF], 0.0f32);
        for (r, codes) in self.codes.iter().enumerate() {
            let q = factor(products[r], share);
            dots.iter_mut().zip(codes).for_each(|(dot, code)| *dot += q * i32::from(*code));
            offset = numbers[r].mul_add(self.cells[r].origin, offset);
        }
        sums.iter_mut().zip(dots).for_each(|(sum, dot)| *sum += (most / TOP).mul_add(dot as f32, offset));
    }
}
