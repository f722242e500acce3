//! CPU kernels: slices in, slices out. Every sum has one stated order, so that bits depend on the numbers alone: not on
//! threads, tiles, the batch or the instruction set.

pub mod accumulate;
pub mod activation;
pub mod attention;
mod exact;
#[cfg(test)]
mod exact_tests;
mod exp;
mod factors;
mod isa;
pub mod lanes;
pub mod norm;
#[cfg(test)]
mod oracle_tests;
pub mod panel;
pub mod peak;
pub mod project;
pub mod rope;
pub mod stream;
#[cfg(test)]
mod tests;
mod widen;
#[allow(unsafe_code)]
mod x86;

pub use isa::Isa;
