//! From scores to active sets: which neurons of a layer are computed for each token, and at which level. Pure.

#![forbid(unsafe_code)]

mod set;

pub use set::{ActiveSet, Band, COLUMNS};
