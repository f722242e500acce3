//! Attention's passes over a block on the set at hand.

use super::super::attention::{self as portable, Heads, Scratch};
use super::super::isa::{Isa, Kind};
#[cfg(target_arch = "x86_64")]
use super::heads;
use crate::types::KvRows;

macro_rules! widened {
    ($module:ident, $features:literal) => {
        #[cfg(target_arch = "x86_64")]
        mod $module {
            use super::*;
            #[target_feature(enable = $features)]
            pub fn score_block(heads: &Heads, q: &[f32], rows: KvRows, first: usize, scratch: &mut Scratch) {
                portable::score_block(heads, q, rows, first, scratch);
            }
            #[target_feature(enable = $features)]
            pub fn softmax(scores: &mut [f32]) {
                portable::softmax(scores);
            }
            #[target_feature(enable = $features)]
            pub fn combine_block(heads: &Heads, rows: KvRows, first: usize, scratch: &mut Scratch, out: &mut [f32]) {
                portable::combine_block(heads, rows, first, scratch, out);
            }
        }
    };
}

widened!(avx2, "avx2");
widened!(avx512, "avx2,avx512f,avx512bw,avx512vl");

/// Scores of a block on `isa`.
pub fn score_block(isa: Isa, heads: &Heads, q: &[f32], rows: KvRows, first: usize, scratch: &mut Scratch) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::score_block(heads, q, rows, first, scratch) },
        // SAFETY: as above; the other set with VNNI has these features too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni if heads::takes(heads) => unsafe {
            heads::score_block(heads, q, rows, first, &mut scratch.weights)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { avx512::score_block(heads, q, rows, first, scratch) },
        _ => portable::score_block(heads, q, rows, first, scratch),
    }
}

/// Softmax of one query head's scores on `isa`.
pub fn softmax(isa: Isa, scores: &mut [f32]) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::softmax(scores) },
        // SAFETY: as above; the other set with VNNI has these features too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { avx512::softmax(scores) },
        _ => portable::softmax(scores),
    }
}

/// Weighted sums of a block on `isa`.
pub fn combine_block(isa: Isa, heads: &Heads, rows: KvRows, first: usize, scratch: &mut Scratch, out: &mut [f32]) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::combine_block(heads, rows, first, scratch, out) },
        // SAFETY: as above; the other set with VNNI has these features too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni if heads::takes(heads) => unsafe {
            heads::combine_block(heads, &scratch.weights, rows, first, out)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { avx512::combine_block(heads, rows, first, scratch, out) },
        _ => portable::combine_block(heads, rows, first, scratch, out),
    }
}
