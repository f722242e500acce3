//! Bodies for the wider registers of x86-64: written by hand where that pays, else the portable ones compiled for them.
//! The compiler contracts no product and sum into an FMA by itself and keeps the order of f32 sums, and the hand-written
//! ones do the same operations in the same order: the bits are the portable ones (tested on every set this machine has).
//!
//! **Names.** A body is named by what it computes (dots, sums), in what numbers (int8, exact integers, f32), for one column
//! or many, and by its set where that is not AVX-512; a word that is missing is one that its bodies differ in
//! (`f32` has dots and sums, one column and many; `sums_exact_avx2` one column and many).
//!
//! **Tiles.** `amx` has the instructions, `amx_host` says whether they may be used; `tests` emulates them.

mod ahead;
pub mod amx;
pub mod amx_host;
mod block;
mod decode;
mod decode_avx2;
pub mod dots_f32_one;
pub mod dots_int8_amx;
pub mod dots_int8_many;
pub mod dots_int8_many_avx2;
pub mod dots_int8_one;
pub mod dots_int8_one_avx2;
pub mod f32;
pub mod heads;
pub mod heads_avx2;
mod load;
mod pack;
mod pack_avx2;
mod product;
mod scales;
mod simd;
mod strip;
pub mod sums_exact_amx;
pub mod sums_exact_avx2;
pub mod sums_exact_many;
pub mod sums_exact_one;
pub mod sums_f32_one;
mod terms;
#[cfg(test)]
mod tests;
mod tile;
mod widen;

/// The portable bodies, compiled for a set.
macro_rules! widened {
    ($module:ident, $features:literal, $chains:literal) => {
        pub mod $module {
            use crate::config::{Activation, Form};
            use crate::kernels::columns::{Int8Columns, Strip};
            use crate::kernels::factors::Factors;
            use crate::kernels::lanes::LANES;
            use crate::kernels::portable;
            use crate::kernels::queries::{Tile, Total};
            use crate::kernels::work::{Dots, Sums};

            #[target_feature(enable = $features)]
            pub fn dots_int8(work: &Dots<Int8Columns>, out: &mut [[f32; LANES]]) {
                portable::dots_int8(work, out);
            }
            #[target_feature(enable = $features)]
            pub fn sums_exact(work: &Sums<Factors>, out: &mut [f32]) {
                portable::sums_exact(work, out);
            }
            #[target_feature(enable = $features)]
            pub fn join(total: &mut Total, tile: &Tile) {
                portable::join(total, tile);
            }
            #[target_feature(enable = $features)]
            pub fn quantise(row: &[f32], strips: &mut [Strip]) {
                portable::quantise(row, strips);
            }
            #[target_feature(enable = $features)]
            pub fn spread(form: Form, scales: &[u8], norms: &[[f32; LANES]]) -> [f32; 2] {
                portable::spread(form, scales, norms)
            }
            #[target_feature(enable = $features)]
            pub fn activate(activation: Activation, x: &mut [f32]) {
                portable::activate(activation, x);
            }
            #[target_feature(enable = $features)]
            pub fn read(words: &[u64]) -> u64 {
                portable::read(words)
            }
            #[target_feature(enable = $features)]
            pub fn multiply_add(rounds: usize) -> [f32; LANES] {
                portable::multiply_add::<$chains>(rounds)
            }
        }
    };
}

widened!(avx2, "avx2,fma", 6);
widened!(avx512, "avx2,fma,avx512f,avx512bw,avx512vl", 10);
