//! Bodies for the wider registers of x86-64: written by hand where that pays, else the portable ones compiled for them.
//! The compiler contracts no product and sum into an FMA by itself and keeps the order of f32 sums, and the hand-written
//! ones do the same operations in the same order: the bits are the portable ones (tested on every set this machine has).
//!
//! In names, gemv is a product with one column and gemm one with several; where no set is named it is AVX-512's.

mod ahead;
pub mod axpy_f32;
mod decode;
mod decode_avx2;
pub mod exact;
pub mod exact_avx2;
pub mod exact_one;
pub mod gemm_f32;
pub mod gemm_int8;
pub mod gemm_int8_avx2;
pub mod gemv_f32;
pub mod gemv_int8;
pub mod gemv_int8_avx2;
pub mod heads;
pub mod heads_avx2;
mod load;
mod pack;
mod pack_avx2;
mod product;
mod scales;
mod scales_avx2;
mod simd;
mod tile;
mod widen;

/// The portable bodies, compiled for a set.
macro_rules! widened {
    ($module:ident, $features:literal, $chains:literal) => {
        pub mod $module {
            use crate::config::Activation;
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
