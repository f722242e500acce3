//! m2cache-rs: run language models bigger than the memory you have.
//!
//! The core behind the Python package `m2cache_rs`: the nested-plane store, the weight cache and the CPU kernels.
//! ARCHITECTURE.md names the rooms and the one direction in which they import.

#![forbid(clippy::todo)]

pub mod config;
pub mod error;
pub mod quant;
pub mod store;
pub mod types;
