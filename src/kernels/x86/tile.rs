//! Products of decoded weights with many columns, a tile of sums in registers at a time. Every sum has the order that
//! `lanes::dot` and `lanes::axpy` give it, so that no tile, and no neighbour in it, changes a bit.

use super::block::{Block, Lane};
use super::simd::Simd;

/// Rows of `len` registers: row i begins at `i * stride`.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    pub lanes: &'a [Lane],
    pub stride: usize,
    pub len: usize,
}

impl<'a> Strided<'a> {
    /// `N` rows from `first` on.
    #[inline(always)]
    pub fn rows<const N: usize>(&self, first: usize) -> [&'a [Lane]; N] {
        std::array::from_fn(|i| &self.lanes[(first + i) * self.stride..][..self.len])
    }
}

/// `sums[c][r] += weights[r] . x[c]` lane by lane, from zero where this is the sums' `first` part. `sums` is
/// `[C][stride]`.
#[inline(always)]
pub fn dots<S: Simd, const R: usize, const C: usize>(
    simd: S,
    weights: [&[Lane]; R],
    x: [&[Lane]; C],
    first: bool,
    sums: &mut [Lane],
    stride: usize,
) {
    let mut tile = [[simd.splat(0.0); R]; C];
    if !first {
        for (c, tile) in tile.iter_mut().enumerate() {
            tile.iter_mut().zip(&sums[c * stride..][..R]).for_each(|(sum, lanes)| *sum = simd.load(lanes));
        }
    }
    let len = x[0].len();
    let (weights, x) = (weights.map(|row| &row[..len]), x.map(|row| &row[..len]));
    for i in 0..len {
        let weights = weights.map(|row| simd.load(&row[i]));
        for (tile, x) in tile.iter_mut().zip(&x) {
            let x = simd.load(&x[i]);
            for (sum, weight) in tile.iter_mut().zip(&weights) {
                *sum = simd.add_product(*sum, *weight, x);
            }
        }
    }
    for (c, tile) in tile.iter().enumerate() {
        tile.iter().zip(&mut sums[c * stride..][..R]).for_each(|(sum, lanes)| simd.store(lanes, *sum));
    }
}

/// `sums[n][p] += factors[r][n] * weights[r][p]` by rising record, for `C` columns and registers `part..part + P` of a
/// block.
#[inline(always)]
pub fn sums<'a, S: Simd, const C: usize, const P: usize>(
    simd: S,
    part: usize,
    weights: impl Iterator<Item = &'a Block>,
    factors: impl Iterator<Item = &'a [f32; C]>,
    sums: &mut [Block; C],
) {
    let mut tile = [[simd.splat(0.0); P]; C];
    for (tile, sums) in tile.iter_mut().zip(&*sums) {
        tile.iter_mut().zip(&sums[part..][..P]).for_each(|(lanes, sums)| *lanes = simd.load(sums));
    }
    for (weights, factors) in weights.zip(factors) {
        let weights: [S::Lanes; P] = std::array::from_fn(|p| simd.load(&weights[part + p]));
        for (tile, factor) in tile.iter_mut().zip(factors) {
            let factor = simd.splat(*factor);
            for (sum, weight) in tile.iter_mut().zip(&weights) {
                *sum = simd.add_product(*sum, factor, *weight);
            }
        }
    }
    for (tile, sums) in tile.iter().zip(sums) {
        tile.iter().zip(&mut sums[part..][..P]).for_each(|(lanes, sums)| simd.store(sums, *lanes));
    }
}
