//! Who is where in DRAM. Pure: no I/O, no clocks, no memory; slots are numbers.

mod dram;
pub mod policy;
mod stats;
pub mod trace;

pub use dram::{Block, BlockId, Dram, Place, least};
pub use stats::{Counters, Stats};
