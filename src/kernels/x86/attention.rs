//! Attention's passes over a span on the set at hand. Memory is asked for rows (`then`) that are wanted after those at
//! hand, while these are worked on.

use super::super::attention::{self as portable, Tile};
use super::super::isa::{Isa, Kind};
use super::super::widen::widened;
#[cfg(target_arch = "x86_64")]
use super::load::{bytes32, prefetch, store8};
#[cfg(target_arch = "x86_64")]
use super::{heads, heads_avx2};
use crate::types::KvRows;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn score(tile: &mut Tile, k: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
        heads_avx2::score(tile, wide(tile, k, then, scratch));
    }
    #[target_feature(enable = "avx2,fma")]
    pub fn soften(tile: &mut Tile) {
        portable::soften(tile, portable::largest);
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn mix(tile: &mut Tile, v: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
        portable::mix(tile, wide(tile, v, then, scratch));
    }
}

/// The rows of a span in single precision, `[.., width]`: themselves, or widened into `scratch`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn wide<'a>(tile: &Tile, rows: KvRows<'a>, then: KvRows, scratch: &'a mut Vec<f32>) -> &'a [f32] {
    match rows {
        KvRows::F16(all) if tile.width == tile.head_dim() => {
            let (from, ahead): (&[[u8; 32]], _) = (bytemuck::cast_slice(all), distance(rows, then));
            scratch.resize(all.len(), 0.0);
            for (to, from) in scratch.as_chunks_mut::<16>().0.iter_mut().zip(from) {
                prefetch(from, ahead);
                let (from, to) = (bytes32(from), to.as_chunks_mut().0);
                store8(&mut to[0], _mm256_cvtph_ps(_mm256_castsi256_si128(from)));
                store8(&mut to[1], _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(from)));
            }
            scratch
        }
        _ => widened(rows, tile.head_dim(), tile.width, scratch),
    }
}

/// Bytes from the first row of some rows to that of others.
#[cfg(target_arch = "x86_64")]
pub(super) fn distance(from: KvRows, to: KvRows) -> usize {
    let address = |rows| match rows {
        KvRows::F16(all) => all.as_ptr().addr(),
        KvRows::F32(all) => all.as_ptr().addr(),
    };
    address(to).wrapping_sub(address(from))
}

/// Scores of a span's K rows on `isa`.
pub fn score(isa: Isa, tile: &mut Tile, k: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::score(tile, k, then, scratch) },
        // SAFETY: as above; the other set with VNNI has these features too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { heads::score(tile, k, then, scratch) },
        _ => portable::score(tile, widened(k, tile.head_dim(), tile.width, scratch)),
    }
}

/// Scores to weights on `isa`.
pub fn soften(isa: Isa, tile: &mut Tile) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::soften(tile) },
        // SAFETY: as above; the other set with VNNI has these features too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { heads::soften(tile) },
        _ => portable::soften(tile, portable::largest),
    }
}

/// Weighted sums of a span's V rows on `isa`.
pub fn mix(isa: Isa, tile: &mut Tile, v: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::mix(tile, v, then, scratch) },
        // SAFETY: as above; the other set with VNNI has these features too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::Avx512Vnni => unsafe { heads::mix(tile, v, then, scratch) },
        _ => portable::mix(tile, widened(v, tile.head_dim(), tile.width, scratch)),
    }
}
