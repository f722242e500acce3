//! Tiles on machines that have none: an emulator of their instructions, and what it must do itself.
#![allow(clippy::unwrap_used)]

mod amx;
mod decode;
pub mod emulator;
mod encodings;
mod tiles;
