//! From scores to active sets: which neurons of a layer are computed for each token, and at which level. Pure.

#![forbid(unsafe_code)]

mod choose;
mod coded;
mod lowrank;
mod normal;
mod rank;
mod set;
#[cfg(test)]
mod tests;
mod trace;

pub use choose::choose;
pub use lowrank::{Factors, Lowrank};
pub use set::{ActiveSet, Band, COLUMNS};
pub use trace::{Generator, fit_memory};
