//! A pass over memory that does nothing else: the bound of every kernel here.

#![forbid(unsafe_code)]

use super::{Isa, dispatch};
use rayon::prelude::*;

/// Words of a task: 512 KiB.
const TASK: usize = 1 << 16;

/// Reads `words` on the current rayon pool with the loads of `isa`, and returns their wrapping sum.
pub fn read(isa: Isa, words: &[u64]) -> u64 {
    words.par_chunks(TASK).map(|part| read_alone(isa, part)).reduce(|| 0, u64::wrapping_add)
}

/// [`read`] on the calling thread alone.
pub fn read_alone(isa: Isa, words: &[u64]) -> u64 {
    dispatch::read(isa, words)
}
