//! From scores to active sets: which neurons of a layer are computed for each token, and at which level. No I/O: what it computes scores from is handed to it.

#![forbid(unsafe_code)]

mod certified;
mod choose;
mod coded;
mod heads;
mod interval;
mod lowrank;
mod normal;
mod rank;
mod set;
mod shared;
#[cfg(test)]
mod tests;
mod trace;

pub use certified::{Activated, Prover};
pub use choose::choose;
pub use heads::HeadScores;
pub use lowrank::{Factors, Lowrank};
pub use set::{ActiveSet, Band};
pub use trace::{Generator, fit_memory};
