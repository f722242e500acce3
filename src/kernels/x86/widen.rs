//! Rows of K and V in single precision. Memory is asked for rows (`then`) that are wanted after those at hand, while these
//! are worked on.

use super::load::{bytes32, prefetch, store8};
use crate::kernels::queries::Tile;
use crate::kernels::widen::widened;
use crate::types::KvRows;
use std::arch::x86_64::*;

/// The rows of a span in single precision, `[.., width]`: themselves, or widened into `scratch`.
#[target_feature(enable = "avx2,f16c")]
pub fn wide<'a>(tile: &Tile, rows: KvRows<'a>, then: KvRows, scratch: &'a mut Vec<f32>) -> &'a [f32] {
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
pub fn distance(from: KvRows, to: KvRows) -> usize {
    let address = |rows| match rows {
        KvRows::F16(all) => all.as_ptr().addr(),
        KvRows::F32(all) => all.as_ptr().addr(),
    };
    address(to).wrapping_sub(address(from))
}
