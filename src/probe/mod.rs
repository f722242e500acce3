//! What this machine can do, measured through the rooms that the engine uses: reads through [`crate::io`], weights in
//! [`crate::mem`], dots and accumulations of [`crate::kernels`]. Every rate is in GB (1e9 bytes) a second.

mod disk;
mod memory;
mod scratch;
#[cfg(test)]
mod tests;
mod walk;

pub use crate::io::Choice;
pub use disk::{Alignment, DEPTH, Disk, LARGEST};
pub use memory::{Kernel, Memory};

use crate::error::Result;
use crate::kernels::Isa;
use std::time::{Duration, Instant};

/// The instruction sets of this machine that there are kernels for, narrowest first, and the one that is used.
///
/// # Errors
/// `Error::Usage` for one forced that is not there.
pub fn isa() -> Result<(Vec<&'static str>, &'static str)> {
    Ok((Isa::available().into_iter().map(Isa::name).collect(), Isa::chosen()?.name()))
}

/// Where the processor has a wider set than is used, since it cannot be: why, and what to do about it.
pub fn isa_refused() -> Option<(&'static str, &'static str)> {
    Isa::refused()
}

/// The middle of the rates at which `step` does its work, called again and again for `limit`, at least once; it returns
/// the bytes it went through. The middle, since other programs only ever slow a step down, and some by much.
fn median_rate(limit: Duration, mut step: impl FnMut() -> usize) -> f64 {
    let begin = Instant::now();
    let mut rates = Vec::new();
    while rates.is_empty() || begin.elapsed() < limit {
        let start = Instant::now();
        let bytes = step();
        rates.push(gbps(bytes as u64, start.elapsed()));
    }
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn gbps(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9) / 1e9
}
