//! 64 numbers as registers hold them.

use crate::kernels::lanes::LANES;
use crate::types::BLOCK;

/// Sixteen numbers that a register holds.
pub type Lane = [f32; LANES];

/// Registers of a block.
pub const PARTS: usize = BLOCK / LANES;

/// 64 weights, or their sums.
pub type Block = [Lane; PARTS];
