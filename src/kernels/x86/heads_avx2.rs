//! Attention's passes over a span with AVX2. Scores are written by hand, four K rows at a time: the portable body is
//! compiled into shuffles between its four dots there, six times slower.

use super::load::{floats8, store4};
use super::widen::wide;
use crate::kernels::lanes::LANES;
use crate::kernels::portable;
use crate::kernels::queries::Tile;
use crate::types::KvRows;
use std::arch::x86_64::*;

/// Scores to weights.
#[target_feature(enable = "avx2,fma")]
pub fn soften(tile: &mut Tile) {
    portable::soften(tile, portable::largest);
}

/// Weighted sums of V rows.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn mix(tile: &mut Tile, v: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
    portable::mix(tile, wide(tile, v, then, scratch));
}

/// Scaled scores with K rows.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn score(tile: &mut Tile, k: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
    let k = wide(tile, k, then, scratch);
    let Tile { width, scale, rows, q, weights, .. } = tile;
    let (k, chunks) = (k.as_chunks::<LANES>().0, *width / LANES);
    for ((row, q), scores) in rows.iter().zip(q.as_chunks::<LANES>().0.chunks_exact(chunks)).zip(weights) {
        for (four, scores) in scores.as_chunks_mut::<4>().0[..row.seen.div_ceil(4)].iter_mut().enumerate() {
            let mut rows = [&k[..chunks]; 4];
            for (i, k_row) in rows.iter_mut().enumerate() {
                // Behind the last row it is taken again; nobody reads those scores.
                *k_row = &k[(4 * four + i).min(row.seen - 1) * chunks..][..chunks];
            }
            store4(scores, _mm_mul_ps(dots(q, rows), _mm_set1_ps(*scale)));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn dots(q: &[[f32; LANES]], [a, b, c, d]: [&[[f32; LANES]]; 4]) -> __m128 {
    let mut sums = [[_mm256_setzero_ps(); 2]; 4];
    for ((((q, a), b), c), d) in q.iter().zip(a).zip(b).zip(c).zip(d) {
        let q = halves(q);
        for (sums, k) in sums.iter_mut().zip([a, b, c, d]) {
            let k = halves(k);
            sums[0] = _mm256_fmadd_ps(q[0], k[0], sums[0]);
            sums[1] = _mm256_fmadd_ps(q[1], k[1], sums[1]);
        }
    }
    fold(sums)
}

#[inline]
#[target_feature(enable = "avx2")]
fn halves(lanes: &[f32; LANES]) -> [__m256; 2] {
    let halves = lanes.as_chunks().0;
    [floats8(&halves[0]), floats8(&halves[1])]
}

/// The trees of `lanes::fold16` over four sums.
#[inline]
#[target_feature(enable = "avx2")]
fn fold(sums: [[__m256; 2]; 4]) -> __m128 {
    let mut four = [_mm_setzero_ps(); 4];
    for (four, sums) in four.iter_mut().zip(sums) {
        let eight = _mm256_add_ps(sums[0], sums[1]);
        *four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    }
    let two = [[four[0], four[1]], [four[2], four[3]]];
    let mut pairs = [_mm_setzero_ps(); 2];
    for (pair, [a, b]) in pairs.iter_mut().zip(two) {
        *pair = _mm_add_ps(_mm_shuffle_ps::<0x44>(a, b), _mm_shuffle_ps::<0xee>(a, b));
    }
    _mm_add_ps(_mm_shuffle_ps::<0x88>(pairs[0], pairs[1]), _mm_shuffle_ps::<0xdd>(pairs[0], pairs[1]))
}
