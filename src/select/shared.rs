//! Parts of a choice among the threads.

use crate::kernels::Cpu;
use rayon::prelude::*;

/// Who chooses: the threads that are there, or the caller alone.
pub type Team<'a> = Option<&'a Cpu>;

/// What `one` makes of every part, in their order.
pub fn shared<T: Send, U: Send>(team: Team, parts: Vec<T>, one: impl Fn(T) -> U + Sync + Send) -> Vec<U> {
    match team {
        Some(cpu) if parts.len() > 1 => cpu.run(|| parts.into_par_iter().with_max_len(1).map(one).collect()),
        _ => parts.into_iter().map(one).collect(),
    }
}
