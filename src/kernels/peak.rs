//! Multiply-adds in f32 that wait for nothing: the bound of kernels that compute rather than read.

#![forbid(unsafe_code)]

use super::lanes::LANES;
use super::{Isa, x86};
use std::hint::black_box;

/// Products of sixteen lanes in a round.
pub(super) const CHAINS: usize = 30;

/// Floating-point operations of a round.
pub const ROUND: usize = 2 * CHAINS * LANES;

/// Runs rounds of multiply-adds with the registers of `isa` on the calling thread.
pub fn multiply_add(isa: Isa, rounds: usize) {
    black_box(x86::multiply_add(isa, rounds));
}

/// The rounds, as wide as the caller is compiled, in `C` sums side by side: enough to hide the latency of one, few enough
/// to stay in registers.
#[inline(always)]
pub(super) fn chains<const C: usize>(rounds: usize) -> [f32; LANES] {
    let (factor, mut sums) = (black_box([0.999f32; LANES]), black_box([[1.0f32; LANES]; C]));
    for _ in 0..rounds * CHAINS / C {
        for sum in &mut sums {
            for (sum, factor) in sum.iter_mut().zip(factor) {
                *sum = sum.mul_add(factor, factor);
            }
        }
    }
    let mut total = [0.0; LANES];
    for sum in sums {
        total.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
    }
    total
}
