//! Drives the DRAM tier with a reader: what a step needs is leased, what is missing is read, ahead of its step where the
//! order is known. Steps that are chosen while a model runs go a way of their own, past those.

mod ahead;
mod fetcher;
mod flights;
mod lane;
mod layout;
mod order;
mod reading;
pub mod runs;
mod stop;
mod want;
mod way;

#[cfg(test)]
mod chosen_tests;
#[cfg(test)]
mod stop_tests;
#[cfg(test)]
mod tests;

pub use fetcher::{Access, Fetcher};
pub use layout::Layout;
pub use stop::{Stop, TICK};
pub use want::{Held, Home, Pick, Span, Steps, Want};
