//! The bounds of kernels: reading that does nothing else, and multiply-adds that wait for nothing.

use crate::kernels::lanes::LANES;
use std::hint::black_box;

/// Products of sixteen lanes in a round.
pub const CHAINS: usize = 30;

/// The wrapping sum of words.
#[inline(always)]
pub fn read(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// Rounds of multiply-adds in `C` sums side by side: enough to hide the latency of one, few enough to stay in registers.
#[inline(always)]
pub fn multiply_add<const C: usize>(rounds: usize) -> [f32; LANES] {
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
