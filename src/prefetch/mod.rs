//! Drives the DRAM tier with a reader: what a step needs is leased, what is missing is read, ahead of its step where the
//! order is known.

mod fetcher;
mod flights;
mod order;
mod want;

#[cfg(test)]
mod tests;

pub use fetcher::{Access, Fetcher, Layout};
pub use want::{Held, Steps, Want};
