//! Multiply-adds in f32 that wait for nothing: the bound of kernels that compute rather than read.

#![forbid(unsafe_code)]

use super::lanes::LANES;
use super::portable::CHAINS;
use super::{Isa, dispatch};
use std::hint::black_box;

/// Floating-point operations of a round.
pub const ROUND: usize = 2 * CHAINS * LANES;

/// Runs rounds of multiply-adds with the registers of `isa` on the calling thread.
pub fn multiply_add(isa: Isa, rounds: usize) {
    black_box(dispatch::multiply_add(isa, rounds));
}
