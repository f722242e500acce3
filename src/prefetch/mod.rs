//! Drives the DRAM tier with a reader: what a step needs is leased, what is missing is read, ahead of its step where the
//! order is known.

mod ahead;
mod fetcher;
mod flights;
mod layout;
mod order;
mod want;

#[cfg(test)]
mod tests;

pub use fetcher::{Access, Fetcher};
pub use layout::Layout;
pub use want::{Held, Home, Steps, Want};
