//! How far the dot of a record at a fine level, as its kernel computes it, can lie from its dot at a coarse one.
//!
//! Let x be the activations that both kernels meet: f32, or int8 times their scale. n_g is the sum of |x| over group g.
//!
//! **Cells.** A coarse code is the upper bits of the fine one, so both values lie in one coarse cell, w_C wide: from
//! a = (c_L w_L - c_C w_C) / 2 to a + w_C - w_L apart. With c = 1 that is half of w_C - w_L in both directions. Exact
//! dots are apart by at most the sum over g of max(|a|, |a + w_C - w_L|) n_g; codes exist for which they are.
//!
//! **Roundings**, u = 2^-24. A sum of terms each of which goes through k roundings, with exact values t, is off by at most
//! k u / (1 - k u) times the sum of |t| (Higham, Accuracy and Stability, section 3.1).
//! - In f32: a product, at most as many sums as a lane has terms, four of the fold; decoding a weight rounds the product
//!   and, in the affine form, the sum, by no more than 2.1 u (|lo| + R) together: k = terms + 8 covers all of them, and
//!   |value| is at most s, or |lo| + R.
//! - In integers: dots and sums of codes are exact, their scaling rounds once, the origin of affine cells once, and each
//!   group adds to its lane by two fused products; four of the fold: k = 2 groups of the lane + 8. Of |w D sx| + |o Q sx|
//!   a group has at most 3 s n_g, or (|lo| + 2 R) n_g.
//! - Numbers below 2^-126 round by up to 2^-150 instead, once a product: what they meet is below 2^18, and a group has at
//!   most 65 of them, so 2^-120 a group covers both kernels.
//!
//! **In f32.** The sums over groups are of f32 themselves: G products that are no less than 0, with n_g rounded up, each
//! rounded once and added G times at most, so a factor of 1 + (G + 8) 2u covers what they lose. Products below 2^-126 lose
//! up to 2^-150, and n_g below it 2^-150 times a scale of 2^16 at most: far below the 2^-120 a group.
//!
//! The bias is added last: its rounding keeps the sign of the sum, so the sum itself is what has to be bounded.
//!
//! **Overflow.** Scales are finite f16 (docs/format.md, 6), so no weight is above 2^17. Where the sum of all n_g is up to
//! [`LARGEST`], nothing on the way to a dot exceeds 2^120.

use crate::config::{Coding, Form};
use crate::kernels::Isa;
use crate::kernels::spread::{GroupNorms, spread};
use crate::quant::{Int8, half_cell};
use crate::types::{BLOCK, Level};

/// Sum of |x| of a token up to which no dot overflows.
pub const LARGEST: f64 = (1u128 << 100) as f64;

/// Half a unit in the last place of a number near 1.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Added for each group: what numbers too small for their exponent round by.
const TINY: f64 = 1.0 / (1u128 << 120) as f64;

/// Sums of f64 here go through fewer than 2^17 roundings, and what becomes f32 is no less than it was.
const WIDER: f64 = 1.0 + 1.0 / (1 << 22) as f64;

/// Sums of |x| by group of weights.
#[derive(Clone, Debug)]
pub struct Norms {
    /// None is less than the exact sum, but where f32 has no number so small.
    groups: GroupNorms,
    sum: f64,
}

impl Norms {
    /// Of a row as kernels meet it, in groups of `group` weights.
    pub fn of(row: &[f32], group: usize, integer: bool) -> Norms {
        let blocks = row.chunks(BLOCK).map(|part| {
            let mut block = [0.0; BLOCK];
            block[..part.len()].copy_from_slice(part);
            if integer { quantised(&block) } else { block.map(|x| f64::from(x).abs()) }
        });
        let sums = |block: [f64; BLOCK]| block.chunks(group).map(|x| x.iter().sum::<f64>() * WIDER).collect::<Vec<_>>();
        let groups: Vec<f64> = blocks.flat_map(sums).collect();
        Norms { sum: groups.iter().sum(), groups: GroupNorms::new(groups.iter().map(|sum| *sum as f32)) }
    }

    /// Whether dots with finite weights are finite, as kernels compute them: false for what is not a number.
    pub fn are_small(&self) -> bool {
        self.sum <= LARGEST
    }
}

/// Sizes of what int8 stands for.
fn quantised(block: &[f32; BLOCK]) -> [f64; BLOCK] {
    let int8 = Int8::of(block);
    int8.codes.map(|code| f64::from(code).abs() * f64::from(int8.scale))
}

/// How far apart dots of records are at most.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    coding: Coding,
    /// Of a record.
    groups: usize,
    /// What |size| and |lower end| of a group are multiplied with, for each unit of n_g.
    of: [f64; 2],
    /// For what f32 loses.
    wider: f64,
}

impl Interval {
    /// From `coarse` to `fine`, of records of `blocks` blocks, both met in integers or both in f32.
    pub fn new(coding: Coding, coarse: Level, fine: Level, blocks: usize, integer: bool) -> Interval {
        let groups = blocks * (BLOCK / coding.group);
        let terms = if integer { 2 * groups.div_ceil(16) } else { blocks * BLOCK / 16 };
        let k = (terms + 8) as f64 * U;
        // Of both kernels.
        let roundings = 2.0 * k / (1.0 - k);
        let cells = apart(&coding, coarse, fine) * f64::from(half_cell(coding.form, coarse));
        // What |x| is multiplied with at most, of a group.
        let [sizes, lows] = match (coding.form, integer) {
            (Form::Symmetric, false) => [1.0, 0.0],
            (Form::Symmetric, true) => [3.0, 0.0],
            (Form::Affine, false) => [1.0, 1.0],
            (Form::Affine, true) => [2.0, 1.0],
        };
        let wider = 1.0 + (groups + 8) as f64 * 2.0 * U;
        Interval { coding, groups, of: [cells + roundings * sizes, roundings * lows], wider }
    }

    /// How far the dots of a record are apart at most: the scales are those of its base part.
    pub fn width(&self, isa: Isa, scales: &[u8], norms: &Norms) -> f64 {
        let [sizes, lows] = spread(isa, self.coding.form, scales, &norms.groups).map(f64::from);
        let sum = self.of[0] * sizes + self.of[1] * lows;
        // Where every term is 0, by its weights or its activations, nothing rounds.
        if sum == 0.0 && self.is_zero(scales, norms) { 0.0 } else { sum * self.wider + self.groups as f64 * TINY }
    }

    /// Whether no group has both a weight and an activation that are not 0: sums of f32 may be 0 where terms are not.
    fn is_zero(&self, scales: &[u8], norms: &Norms) -> bool {
        let mut groups = scales.chunks(scales.len() / self.groups).enumerate();
        groups.all(|(group, scale)| norms.groups.of(group) == 0.0 || scale.iter().all(|byte| *byte == 0))
    }
}

/// The distance of a coarse from a fine value as a share of half a coarse cell.
fn apart(coding: &Coding, coarse: Level, fine: Level) -> f64 {
    let of_fine = 1.0 / f64::from(1u32 << (fine.bits() - coarse.bits()));
    let cell = |level: Level| f64::from(coding.cells[level as usize]);
    let least = cell(fine) * of_fine - cell(coarse);
    least.abs().max((least + 2.0 - 2.0 * of_fine).abs())
}
