//! m2cache-rs: run language models bigger than the memory you have.
//!
//! The core behind the Python package `m2cache_rs`: the nested-plane store, the weight cache and the CPU kernels.
//! ARCHITECTURE.md names the rooms and the one direction in which they import.

#![deny(unsafe_code)]
#![forbid(clippy::todo)]

pub mod config;
pub mod engine;
pub mod error;
pub mod io;
pub mod kernels;
pub mod kv;
#[allow(unsafe_code)]
pub mod mem;
pub mod prefetch;
pub mod probe;
#[cfg(feature = "python")]
mod python;
pub mod quant;
pub mod select;
pub mod store;
pub mod tier;
pub mod types;
