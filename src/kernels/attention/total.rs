//! What query rows have gathered over stretches of positions.

use super::Heads;
use super::tile::{Row, Tile};
use crate::kernels::exp::exp;
use crate::kernels::lanes::{LANES, fold16};

/// The rows of a tile, in the memory of the results.
pub struct Total<'a> {
    rows: Vec<Gathered<'a>>,
}

/// As in [`Row`], over all stretches so far.
struct Gathered<'a> {
    max: f32,
    sums: [f32; LANES],
    /// Sum of weighted V rows: `[head_dim]`.
    out: &'a mut [f32],
}

impl<'a> Total<'a> {
    /// Nothing yet; the results of tokens, `[group * head_dim]` each, will be in `out`.
    pub fn new(heads: &Heads, out: Vec<&'a mut [f32]>) -> Total<'a> {
        let gathered = |out: &'a mut [f32]| {
            out.fill(0.0);
            Gathered { max: f32::MIN, sums: [0.0; LANES], out }
        };
        Total { rows: out.into_iter().flat_map(|token| token.chunks_exact_mut(heads.head_dim)).map(gathered).collect() }
    }

    /// Query rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Leaves what attention gives.
    pub fn finish(self) {
        for Gathered { sums, out, .. } in self.rows {
            let total = fold16(sums);
            out.iter_mut().for_each(|out| *out /= total);
        }
    }
}

/// Adds the next stretch. Rows that see nothing of it stay as they are.
#[inline(always)]
pub fn join(total: &mut Total, tile: &Tile) {
    let rows = tile.rows.iter().zip(tile.out.chunks_exact(tile.width));
    for (gathered, (row, out)) in total.rows.iter_mut().zip(rows) {
        if row.end > tile.first {
            gathered.add(row, out);
        }
    }
}

impl Gathered<'_> {
    /// Both sides are brought to the larger maximum.
    #[inline(always)]
    fn add(&mut self, row: &Row, out: &[f32]) {
        let max = if row.max > self.max { row.max } else { self.max };
        let (before, now) = (exp(self.max - max), exp(row.max - max));
        self.max = max;
        add_scaled(&mut self.sums, before, &row.sums, now);
        add_scaled(self.out, before, out, now);
    }
}

/// `sums * before + more * now`, every product rounded.
#[inline(always)]
fn add_scaled(sums: &mut [f32], before: f32, more: &[f32], now: f32) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = *sum * before + more * now;
    }
}
