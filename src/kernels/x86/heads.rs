//! Attention's two passes over a block with AVX-512: sixteen sums at a time stay in registers, half precision is widened
//! by the load.

use super::super::attention::Heads;
use super::super::lanes::LANES;
use super::load::{bytes32, floats, store};
use crate::types::KvRows;
use std::arch::x86_64::*;

/// Whether heads are whole registers.
pub fn takes(heads: &Heads) -> bool {
    heads.head_dim.is_multiple_of(LANES)
}

/// See [`super::super::attention::score_block`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn score_block(heads: &Heads, q: &[f32], rows: KvRows, first: usize, scores: &mut [f32]) {
    match rows {
        KvRows::F16(all) => {
            let all: &[[u8; 32]] = bytemuck::cast_slice(all);
            score(heads, q, all.len(), |i| _mm512_cvtph_ps(bytes32(&all[i])), first, scores);
        }
        KvRows::F32(all) => {
            let all = all.as_chunks::<LANES>().0;
            score(heads, q, all.len(), |i| floats(&all[i]), first, scores);
        }
    }
}

/// See [`super::super::attention::combine_block`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn combine_block(heads: &Heads, weights: &[f32], rows: KvRows, first: usize, out: &mut [f32]) {
    match rows {
        KvRows::F16(all) => {
            let all: &[[u8; 32]] = bytemuck::cast_slice(all);
            combine(heads, weights, all.len(), |i| _mm512_cvtph_ps(bytes32(&all[i])), first, out);
        }
        KvRows::F32(all) => {
            let all = all.as_chunks::<LANES>().0;
            combine(heads, weights, all.len(), |i| floats(&all[i]), first, out);
        }
    }
}

/// Query heads by fours, then twos, then one: `load(i)` is the i-th register of the K rows.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn score(
    heads: &Heads,
    q: &[f32],
    loads: usize,
    load: impl Fn(usize) -> __m512 + Copy,
    first: usize,
    scores: &mut [f32],
) {
    let (length, chunks) = (scores.len() / heads.group, heads.head_dim / LANES);
    let (mut q, mut scores) = (q.as_chunks::<LANES>().0, scores);
    while !q.is_empty() {
        let taken = [4, 2, 1].into_iter().find(|n| n * chunks <= q.len()).unwrap_or(1);
        let (now, later) = std::mem::take(&mut scores).split_at_mut(taken * length);
        match taken {
            4 => dots::<4, 4>(&q[..4 * chunks], loads / chunks, load, heads.scale, &mut now[first..], length),
            2 => dots::<8, 2>(&q[..2 * chunks], loads / chunks, load, heads.scale, &mut now[first..], length),
            _ => dots::<16, 1>(&q[..chunks], loads / chunks, load, heads.scale, &mut now[first..], length),
        }
        (q, scores) = (&q[taken * chunks..], later);
    }
}

/// Scaled dots of `H` query heads with all rows, `R` rows (with `R * H` = 16) at a time; head `h`'s scores begin at
/// `h * pitch`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn dots<const R: usize, const H: usize>(
    q: &[[f32; LANES]],
    rows: usize,
    load: impl Fn(usize) -> __m512,
    scale: f32,
    scores: &mut [f32],
    pitch: usize,
) {
    let chunks = q.len() / H;
    for top in (0..rows).step_by(R) {
        let mut sums = [[_mm512_setzero_ps(); H]; R];
        for c in 0..chunks {
            let q: [__m512; H] = std::array::from_fn(|h| floats(&q[h * chunks + c]));
            for (r, sums) in sums.iter_mut().enumerate() {
                // Behind the last row it is read again; those sums are dropped.
                let k = load((top + r).min(rows - 1) * chunks + c);
                for (sum, q) in sums.iter_mut().zip(q) {
                    *sum = _mm512_add_ps(*sum, _mm512_mul_ps(q, k));
                }
            }
        }
        let mut folded = [0.0; LANES];
        let sums = std::array::from_fn(|i| sums[i / H][i % H]);
        store(&mut folded, _mm512_mul_ps(fold(sums), _mm512_set1_ps(scale)));
        for r in 0..R.min(rows - top) {
            for h in 0..H {
                scores[h * pitch + top + r] = folded[FOLDED[r * H + h]];
            }
        }
    }
}

/// Where [`fold`] leaves the sum of each register.
const FOLDED: [usize; LANES] = {
    let mut at = [0; LANES];
    let mut i = 0;
    while i < LANES {
        at[i] = [0, 8, 4, 12][i / 4] + [0, 2, 1, 3][i % 4];
        i += 1;
    }
    at
};

/// The trees of `lanes::fold16` over sixteen registers at once; register `i`'s sum lies at `FOLDED[i]`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn fold(sums: [__m512; LANES]) -> __m512 {
    // Each step adds the halves of two registers; what remains of both shares one.
    let eight: [__m512; 8] = std::array::from_fn(|i| {
        let (a, b) = (sums[i], sums[i + 8]);
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b))
    });
    let four: [__m512; 4] = std::array::from_fn(|i| {
        let (a, b) = (eight[i], eight[i + 4]);
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
    });
    let two: [__m512; 2] = std::array::from_fn(|i| {
        let (a, b) = (four[i], four[i + 2]);
        _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b))
    });
    _mm512_add_ps(_mm512_shuffle_ps::<0x88>(two[0], two[1]), _mm512_shuffle_ps::<0xdd>(two[0], two[1]))
}

/// Query heads as in [`score`]: `load(i)` is the i-th register of the V rows.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn combine(
    heads: &Heads,
    weights: &[f32],
    loads: usize,
    load: impl Fn(usize) -> __m512 + Copy,
    first: usize,
    out: &mut [f32],
) {
    let (length, chunks) = (weights.len() / heads.group, heads.head_dim / LANES);
    let seen = first..first + loads / chunks;
    let row = |h: usize| &weights[h * length..][seen.clone()];
    let (mut head, mut out) = (0, out.as_chunks_mut::<LANES>().0);
    while !out.is_empty() {
        let taken = [4, 2, 1].into_iter().find(|n| n * chunks <= out.len()).unwrap_or(1);
        let (now, later) = std::mem::take(&mut out).split_at_mut(taken * chunks);
        match taken {
            4 => mixes::<4, 4>(std::array::from_fn(|h| row(head + h)), load, now),
            2 => mixes::<8, 2>(std::array::from_fn(|h| row(head + h)), load, now),
            _ => mixes::<8, 1>([row(head)], load, now),
        }
        (head, out) = (head + taken, later);
    }
}

/// Adds the weighted rows to `H` heads of `out`, `C` registers of a row at a time.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn mixes<const C: usize, const H: usize>(
    weights: [&[f32]; H],
    load: impl Fn(usize) -> __m512,
    out: &mut [[f32; LANES]],
) {
    let chunks = out.len() / H;
    for left in (0..chunks).step_by(C) {
        // Behind the last register it is taken again; those sums are dropped.
        let at: [usize; C] = std::array::from_fn(|c| (left + c).min(chunks - 1));
        let mut sums: [[__m512; C]; H] = std::array::from_fn(|h| at.map(|c| floats(&out[h * chunks + c])));
        for r in 0..weights[0].len() {
            let v = at.map(|c| load(r * chunks + c));
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let weight = _mm512_set1_ps(weights[r]);
                for (sum, v) in sums.iter_mut().zip(v) {
                    *sum = _mm512_add_ps(*sum, _mm512_mul_ps(weight, v));
                }
            }
        }
        for (h, sums) in sums.iter().enumerate() {
            for (sum, c) in sums.iter().zip(left..chunks) {
                store(&mut out[h * chunks + c], *sum);
            }
        }
    }
}
