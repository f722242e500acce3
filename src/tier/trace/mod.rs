//! Recorded accesses, and what a policy would have made of them: docs/trace.md.

mod header;
mod lines;
mod replay;
#[cfg(test)]
mod tests;

pub use header::{BlockRun, Header};
pub use lines::{Kind, Line, Trace};
pub use replay::{Outcome, Tally, replay};
