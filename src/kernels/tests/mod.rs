//! What kernels compute, against what they are defined to.
#![allow(clippy::unwrap_used)]

mod bands;
mod exact;
mod groups;
mod neurons;
mod places;
pub(crate) mod records;
mod sets;
mod weights;
