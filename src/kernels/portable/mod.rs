//! Portable bodies: the definition of what every kernel computes, and what the hand-written ones are tested against.
//! Everything is inlined into its caller, so that a caller compiled for wider registers widens these loops too.

#![forbid(unsafe_code)]

mod activation;
mod attention;
mod bounds;
mod dots;
mod exact;
mod quantise;
mod spread;
mod sums;

pub use activation::activate;
pub use attention::{join, largest, mix, score, soften};
pub use bounds::{CHAINS, multiply_add, read};
pub use dots::{dots_f32, dots_groups, dots_int8, kept_f32, kept_int8};
pub use exact::sums_exact;
pub use quantise::quantise;
pub use spread::spread;
pub use sums::sums_f32;
