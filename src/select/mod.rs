//! From scores to active sets: which neurons of a layer are computed for each token, and at which level. Pure.

#![forbid(unsafe_code)]

mod choose;
mod rank;
mod set;
#[cfg(test)]
mod tests;

pub use choose::choose;
pub use set::{ActiveSet, Band, COLUMNS};
