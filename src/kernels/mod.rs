//! CPU kernels: slices in, slices out. Every sum has one stated order, so that bits depend on the numbers alone: not on
//! threads, tiles, the batch or the instruction set.
//!
//! Imports run one way: neurons → what the rest calls too (project, accumulate, activation, attention, peak, stream) →
//! dispatch, which chooses a body by [`Isa`] → bodies: x86 → portable → what tasks and operands are (work, columns, factors, panel,
//! queries). `isa` asks x86 whether tiles may be used.

// Some layouts are read by the bodies for x86-64 alone.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

pub mod accumulate;
pub mod activation;
pub mod attention;
mod columns;
mod cpu;
#[cfg_attr(target_arch = "x86_64", path = "dispatch/x86.rs")]
#[cfg_attr(not(target_arch = "x86_64"), path = "dispatch/portable.rs")]
#[allow(unsafe_code)]
mod dispatch;
mod exp;
mod factors;
pub mod groups;
mod isa;
pub mod lanes;
pub mod neurons;
pub mod norm;
pub mod panel;
pub mod peak;
mod portable;
pub mod project;
mod queries;
pub mod rope;
pub mod spread;
pub mod stream;
#[cfg(test)]
mod tests;
mod widen;
mod work;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86;

#[cfg(test)]
pub use cpu::testing;
pub use cpu::{Arithmetic, Cpu};
pub use dispatch::kept;
pub use isa::Isa;
#[cfg(test)]
pub(crate) use tests::records;
pub use work::Extent;
