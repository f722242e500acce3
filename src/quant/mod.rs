//! Nested planes: how a weight becomes a 16-bit code and a code a weight (docs/format.md). Scalar and exact: the oracle
//! that every fast kernel is tested against.

mod decode;
mod encode;
mod half_round;
mod int8;
mod record;
#[cfg(test)]
mod tests;

pub use decode::{Cells, Scale, bias, cells, codes_u8, codes_u16, half_cell, magnitude, scale, values};
pub use encode::{GroupError, encode_record};
pub use int8::Int8;
pub use record::{PlaneView, Record, Rows};
