//! Attention's two passes over a span with AVX-512: sixteen sums at a time stay in registers. A few query rows widen
//! half precision as they load it; more of them have it widened once.

use super::load::{bytes32, floats, prefetch, store};
use super::widen::{distance, wide};
use crate::kernels::lanes::LANES;
use crate::kernels::portable;
use crate::kernels::queries::{Row, SPAN, Tile};
use crate::types::KvRows;
use std::arch::x86_64::*;

/// Query rows up to which rows are taken as they lie in memory: half precision is widened at every use.
const FEW: usize = 8;

/// Calls a pass with the rows of K or V by sixteen elements, and with what takes these into a register.
macro_rules! pass {
    ($pass:ident($tile:expr, $rows:expr, $then:expr, $scratch:expr)) => {
        match ($rows, distance($rows, $then)) {
            (KvRows::F16(all), ahead) if direct($tile) => $pass($tile, bytemuck::cast_slice(all), |part: &[u8; 32]| {
                prefetch(part, ahead);
                _mm512_cvtph_ps(bytes32(part))
            }),
            (KvRows::F32(all), ahead) if direct($tile) => $pass($tile, all.as_chunks().0, |part| {
                prefetch(bytemuck::bytes_of(part), ahead);
                floats(part)
            }),
            _ => {
                let rows = wide($tile, $rows, $then, $scratch);
                $pass($tile, rows.as_chunks().0, |part| floats(part));
            }
        }
    };
}

/// See [`portable::score`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn score(tile: &mut Tile, k: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
    pass!(scores(tile, k, then, scratch))
}

/// See [`portable::soften`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl")]
pub fn soften(tile: &mut Tile) {
    portable::soften(tile, |least, scores| {
        let mut lanes = _mm512_set1_ps(least);
        for scores in scores.as_chunks().0 {
            // The second operand, if the first is NaN.
            lanes = _mm512_max_ps(floats(scores), lanes);
        }
        _mm512_reduce_max_ps(lanes)
    });
}

/// See [`portable::mix`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn mix(tile: &mut Tile, v: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
    pass!(mixes(tile, v, then, scratch))
}

fn direct(tile: &Tile) -> bool {
    tile.rows.len() <= FEW && tile.width == tile.head_dim()
}

/// Rows that go together: four, two or one.
fn together(rows: usize) -> usize {
    [4, 2].into_iter().find(|n| *n <= rows).unwrap_or(1)
}

/// `k` has the K rows by sixteen elements, which `load` takes into a register.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn scores<T>(tile: &mut Tile, k: &[T], load: impl Fn(&T) -> __m512 + Copy) {
    let Tile { width, scale, rows, q, weights, .. } = tile;
    let (chunks, mut first) = (*width / LANES, 0);
    let q = q.as_chunks::<LANES>().0;
    while first < rows.len() {
        let count = together(rows.len() - first);
        let (rows, q) = (&rows[first..first + count], &q[first * chunks..(first + count) * chunks]);
        let weights = &mut weights[first..first + count];
        let seen = rows.iter().map(|row| row.seen).max().unwrap_or(0);
        if seen > 0 {
            let k = &k[..seen * chunks];
            match chunks.trailing_zeros() {
                0 => dots::<T, 1>(q, k, load, *scale, weights),
                1 => dots::<T, 2>(q, k, load, *scale, weights),
                2 => dots::<T, 4>(q, k, load, *scale, weights),
                _ => dots::<T, 8>(q, k, load, *scale, weights),
            }
        }
        first += count;
    }
}

/// Scaled dots of four, two or one query rows with K rows, which are cut into parts of `P` registers.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn dots<T, const P: usize>(
    q: &[[f32; LANES]],
    k: &[T],
    load: impl Fn(&T) -> __m512 + Copy,
    scale: f32,
    scores: &mut [[f32; SPAN]],
) {
    let (q, k) = (q.as_chunks().0, k.as_chunks().0);
    match scores.len() {
        4 => dots_of::<T, P, 4, 4>(q, k, load, scale, scores),
        2 => dots_of::<T, P, 8, 2>(q, k, load, scale, scores),
        _ => dots_of::<T, P, 16, 1>(q, k, load, scale, scores),
    }
}

/// Dots of `H` query rows with `R` K rows (with `R * H` = 16) at a time.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn dots_of<T, const P: usize, const R: usize, const H: usize>(
    q: &[[[f32; LANES]; P]],
    k: &[[T; P]],
    load: impl Fn(&T) -> __m512 + Copy,
    scale: f32,
    scores: &mut [[f32; SPAN]],
) {
    let parts = q.len() / H;
    for top in (0..k.len() / parts).step_by(R) {
        let mut sums = [[_mm512_setzero_ps(); R]; H];
        for part in 0..parts {
            let mut queries = [&q[part]; H];
            for (h, queries) in queries.iter_mut().enumerate() {
                *queries = &q[h * parts + part];
            }
            let mut rows = [&k[part]; R];
            for (r, rows) in rows.iter_mut().enumerate() {
                // Behind the last row it is read again; nobody reads those scores.
                *rows = &k[((top + r) * parts + part).min(k.len() - parts + part)];
            }
            products(&mut sums, queries, rows, load);
        }
        let mut folded = [0.0; LANES];
        let sums = std::array::from_fn(|i| sums[FOLDED[i] / R][FOLDED[i] % R]);
        store(&mut folded, _mm512_mul_ps(fold(sums), _mm512_set1_ps(scale)));
        for (scores, folded) in scores.iter_mut().zip(folded.as_chunks::<R>().0) {
            scores[top..top + R].copy_from_slice(folded);
        }
    }
}

/// Adds the products of parts of all rows. Two registers of each query at a time: with the sums they are 24, and are
/// not loaded again for every row.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn products<T, const P: usize, const R: usize, const H: usize>(
    sums: &mut [[__m512; R]; H],
    queries: [&[[f32; LANES]; P]; H],
    rows: [&[T; P]; R],
    load: impl Fn(&T) -> __m512,
) {
    for p in (0..P).step_by(2) {
        let pair = 0..2.min(P - p);
        let mut q = [[_mm512_setzero_ps(); 2]; H];
        for (q, queries) in q.iter_mut().zip(queries) {
            for i in pair.clone() {
                q[i] = floats(&queries[p + i]);
            }
        }
        for (r, rows) in rows.iter().enumerate() {
            for i in pair.clone() {
                let k = load(&rows[p + i]);
                for (sums, q) in sums.iter_mut().zip(q) {
                    sums[r] = _mm512_fmadd_ps(q[i], k, sums[r]);
                }
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

/// `v` and `load` as in [`scores`].
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn mixes<T>(tile: &mut Tile, v: &[T], load: impl Fn(&T) -> __m512 + Copy) {
    let Tile { width, rows, weights, out, .. } = tile;
    let (chunks, mut first) = (*width / LANES, 0);
    let out = out.as_chunks_mut::<LANES>().0;
    while first < rows.len() {
        let count = together(rows.len() - first);
        let out = &mut out[first * chunks..(first + count) * chunks];
        let (rows, weights) = (&rows[first..first + count], &weights[first..first + count]);
        match count {
            4 => rows_of::<T, 4>(rows, weights, v, load, out),
            2 => rows_of::<T, 2>(rows, weights, v, load, out),
            _ => rows_of::<T, 1>(rows, weights, v, load, out),
        }
        first += count;
    }
}

/// `H` rows: the positions that all of them see together, the rest row by row.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn rows_of<T, const H: usize>(
    rows: &[Row],
    weights: &[[f32; SPAN]],
    v: &[T],
    load: impl Fn(&T) -> __m512 + Copy,
    out: &mut [[f32; LANES]],
) {
    let chunks = out.len() / H;
    let common = rows.iter().map(|row| row.seen).min().unwrap_or(0);
    let weighted = std::array::from_fn(|h| &weights[h][..common]);
    across::<T, H>(weighted, v, load, out);
    for ((row, weights), out) in rows.iter().zip(weights).zip(out.chunks_exact_mut(chunks)) {
        across::<T, 1>([&weights[common..row.seen]], &v[common * chunks..], load, out);
    }
}

/// Adds weighted rows of V to `H` outputs, as many registers of a row at a time as fit.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn across<T, const H: usize>(
    weights: [&[f32]; H],
    v: &[T],
    load: impl Fn(&T) -> __m512 + Copy,
    out: &mut [[f32; LANES]],
) {
    let (chunks, mut left) = (out.len() / H, 0);
    while left < chunks && !weights[0].is_empty() {
        left += match chunks - left {
            8.. if H < 4 => add::<T, 8, H>(weights, v, load, out, left),
            4.. => add::<T, 4, H>(weights, v, load, out, left),
            2.. => add::<T, 2, H>(weights, v, load, out, left),
            _ => add::<T, 1, H>(weights, v, load, out, left),
        }
    }
}

/// Registers `left..left + C` of every row; returns `C`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn add<T, const C: usize, const H: usize>(
    weights: [&[f32]; H],
    v: &[T],
    load: impl Fn(&T) -> __m512,
    out: &mut [[f32; LANES]],
    left: usize,
) -> usize {
    let chunks = out.len() / H;
    let mut sums = [[_mm512_setzero_ps(); C]; H];
    for (h, sums) in sums.iter_mut().enumerate() {
        for (sum, out) in sums.iter_mut().zip(&out[h * chunks + left..][..C]) {
            *sum = floats(out);
        }
    }
    for (r, v) in v.chunks_exact(chunks).take(weights[0].len()).enumerate() {
        let v = &v[left..left + C];
        let mut registers = [_mm512_setzero_ps(); C];
        for (register, v) in registers.iter_mut().zip(v) {
            *register = load(v);
        }
        for (sums, weights) in sums.iter_mut().zip(weights) {
            let weight = _mm512_set1_ps(weights[r]);
            for (sum, v) in sums.iter_mut().zip(registers) {
                *sum = _mm512_fmadd_ps(weight, v, *sum);
            }
        }
    }
    for (h, sums) in sums.iter().enumerate() {
        for (c, sum) in sums.iter().enumerate() {
            store(&mut out[h * chunks + left + c], *sum);
        }
    }
    C
}
