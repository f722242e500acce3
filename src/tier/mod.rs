//! Who is where in DRAM. Pure: no I/O, no clocks, no memory; slots and frames are numbers.

mod dram;
pub mod policy;
mod ring;
mod stats;
pub mod trace;

pub use dram::{Block, BlockId, Dram, Place, paged};
pub use ring::{FRAME, Frames, Ring, frames};
pub use stats::{Counters, Stats};
