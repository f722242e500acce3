//! Drives the DRAM tier with a reader: what a step needs is leased, what is missing is read first.

mod fetcher;

#[cfg(test)]
mod tests;

pub use fetcher::{Fetcher, Held, Want};
