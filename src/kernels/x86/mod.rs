//! Kernels for the wider registers of x86-64: written by hand where that pays, else the portable bodies compiled for
//! them. The compiler contracts no product and sum into an FMA by itself and keeps the order of f32 sums, and the
//! hand-written ones do the same operations in the same order: the bits are the portable ones (tested on every set this
//! machine has).

#[cfg(target_arch = "x86_64")]
mod accumulate;
#[cfg(target_arch = "x86_64")]
mod ahead;
pub mod attention;
#[cfg(target_arch = "x86_64")]
mod batch;
#[cfg(target_arch = "x86_64")]
mod batch_avx2;
#[cfg(target_arch = "x86_64")]
mod block;
#[cfg(target_arch = "x86_64")]
mod block_avx2;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "x86_64")]
mod exact;
#[cfg(target_arch = "x86_64")]
mod exact_avx2;
#[cfg(target_arch = "x86_64")]
mod heads;
#[cfg(target_arch = "x86_64")]
mod heads_avx2;
#[cfg(target_arch = "x86_64")]
mod int8;
#[cfg(target_arch = "x86_64")]
mod int8_avx2;
#[cfg(target_arch = "x86_64")]
mod load;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx2;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(target_arch = "x86_64")]
mod scales;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod wide;

use super::accumulate::{self as portable_sums, TileWork};
use super::activation;
use super::exact::{self as portable_exact, ExactWork};
use super::isa::{Isa, Kind};
use super::lanes::LANES;
use super::project::{self as portable_dots, RowWork};
use super::{peak, stream};
use crate::config::Activation;
use crate::quant::Int8;

macro_rules! widened {
    ($module:ident, $features:literal, $chains:literal) => {
        #[cfg(target_arch = "x86_64")]
        mod $module {
            use super::*;
            #[target_feature(enable = $features)]
            pub fn project_task(work: &mut RowWork, first: usize, out: &mut [[f32; LANES]]) {
                portable_dots::task(work, first, out);
            }
            #[target_feature(enable = $features)]
            pub fn accumulate_exact(work: &ExactWork, chunk: &mut [f32]) {
                portable_exact::tile(work, chunk);
            }
            #[target_feature(enable = $features)]
            pub fn quantise(rows: &[f32], blocks: usize) -> Int8 {
                Int8::quantise(rows, blocks)
            }
            #[target_feature(enable = $features)]
            pub fn activate(activation: Activation, x: &mut [f32]) {
                activation::activate(activation, x);
            }
            #[target_feature(enable = $features)]
            pub fn read(words: &[u64]) -> u64 {
                stream::sum(words)
            }
            #[target_feature(enable = $features)]
            pub fn multiply_add(rounds: usize) -> [f32; LANES] {
                peak::chains::<$chains>(rounds)
            }
        }
    };
}

widened!(avx2, "avx2,fma", 6);
widened!(avx512, "avx2,fma,avx512f,avx512bw,avx512vl", 10);

/// Records `first..` of a projection on `isa`; `out` is `[tiles][N][16]`.
pub fn project_task(isa: Isa, work: &mut RowWork, first: usize, out: &mut [[f32; LANES]]) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features, AVX2 wherever AVX-512.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::Avx512 if int8::takes(work) && work.inputs.count == 1 => unsafe {
            int8_avx2::task(work, first, out)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::Avx512 if int8::takes(work) => unsafe { batch_avx2::task(work, first, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 if work.int8().is_none() => unsafe { wide::dots_avx2(work, first, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::project_task(work, first, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Vnni if int8::takes(work) && work.inputs.count == 1 => unsafe { int8::task(work, first, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Vnni if int8::takes(work) => unsafe { batch::task(work, first, out) },
        // SAFETY: as above; the other set with VNNI has these features too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni if dot::takes(work) => unsafe { dot::task(work, first, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni if work.int8().is_none() => unsafe { wide::dots_avx512(work, first, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { avx512::project_task(work, first, out) },
        _ => portable_dots::task(work, first, out),
    }
}

/// One tile of an accumulation on `isa`.
pub fn accumulate_tile(isa: Isa, work: &TileWork, chunk: &mut [f32]) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { wide::sums_avx2(work, chunk) },
        // SAFETY: as above; the other set with VNNI has these features too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni if accumulate::takes(work) => unsafe { accumulate::tile(work, chunk) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { wide::sums_avx512(work, chunk) },
        _ => portable_sums::tile(work, chunk),
    }
}

/// One tile of an accumulation in exact integers on `isa`.
pub fn accumulate_exact(isa: Isa, work: &ExactWork, chunk: &mut [f32]) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features, AVX2 wherever AVX-512.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::Avx512 if exact::takes(work) => unsafe { exact_avx2::tile(work, chunk) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::accumulate_exact(work, chunk) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Vnni if exact::takes(work) => unsafe { exact::tile(work, chunk) },
        // SAFETY: as above; the other set with VNNI has these features too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { avx512::accumulate_exact(work, chunk) },
        _ => portable_exact::tile(work, chunk),
    }
}

/// Activations as int8 on `isa`.
pub fn quantise(isa: Isa, rows: &[f32], blocks: usize) -> Int8 {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::quantise(rows, blocks) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { avx512::quantise(rows, blocks) },
        _ => Int8::quantise(rows, blocks),
    }
}

/// An activation function on `isa`.
pub fn activate(isa: Isa, activation: Activation, x: &mut [f32]) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::activate(activation, x) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { avx512::activate(activation, x) },
        _ => activation::activate(activation, x),
    }
}

/// The sum of words on `isa`.
pub fn read(isa: Isa, words: &[u64]) -> u64 {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::read(words) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { avx512::read(words) },
        _ => stream::sum(words),
    }
}

/// Rounds of multiply-adds alone on `isa`; each is [`peak::CHAINS`] of sixteen, whatever the registers take.
pub fn multiply_add(isa: Isa, rounds: usize) -> [f32; LANES] {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::multiply_add(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { avx512::multiply_add(rounds) },
        _ => peak::chains::<6>(rounds),
    }
}
