//! Attention's passes over a span of positions, and how stretches are joined, in the order that
//! [`crate::kernels::attention`] states.

use crate::kernels::exp::exp;
use crate::kernels::lanes::{LANES, fold16};
use crate::kernels::queries::{Gathered, Row, SPAN, Tile, Total};

/// Chunks of sixteen output elements that stay in registers over a span.
const CHUNKS: usize = 4;

/// Scaled scores of all rows with a span's K rows `[.., width]`.
#[inline(always)]
pub fn score(tile: &mut Tile, k: &[f32]) {
    let Tile { width, scale, rows, q, weights, .. } = tile;
    for ((row, q), scores) in rows.iter().zip(q.chunks_exact(*width)).zip(weights) {
        for (four, scores) in scores.as_chunks_mut::<4>().0[..row.seen.div_ceil(4)].iter_mut().enumerate() {
            // Behind the last row it is taken again; nobody reads those scores.
            let k = std::array::from_fn(|i| &k[(4 * four + i).min(row.seen - 1) * *width..][..*width]);
            dots(q, k, *scale, scores);
        }
    }
}

/// Four dots at a time, so that their sums do not wait for each other. (Loops here and below: closures over arrays are
/// not always inlined, and what is left outside has neither the caller's registers nor its fused multiply-add.)
#[inline(always)]
fn dots(q: &[f32], k: [&[f32]; 4], scale: f32, scores: &mut [f32; 4]) {
    let mut sums = [[0.0; LANES]; 4];
    let chunks = q.len() / LANES;
    let [a, b, c, d] = k;
    let k = [a.as_chunks().0, b.as_chunks().0, c.as_chunks().0, d.as_chunks().0];
    for (i, q) in q.as_chunks().0[..chunks].iter().enumerate() {
        for (sums, k) in sums.iter_mut().zip(k) {
            add_products(sums, q, &k[i]);
        }
    }
    for (score, sums) in scores.iter_mut().zip(sums) {
        *score = fold16(sums) * scale;
    }
}

/// `sums += a * b`, fused.
#[inline(always)]
fn add_products(sums: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum = a.mul_add(*b, *sum);
    }
}

/// Scores to weights, with what was summed so far brought to the new maximum. A NaN score makes sum and outputs NaN.
/// `largest` gives the largest of a number and a span's scores, of which those that are NaN are passed over.
#[inline(always)]
pub fn soften(tile: &mut Tile, largest: impl Fn(f32, &[f32; SPAN]) -> f32) {
    let Tile { width, rows, weights, out, .. } = tile;
    for ((row, weights), out) in rows.iter_mut().zip(weights).zip(out.chunks_exact_mut(*width)) {
        if row.seen > 0 {
            weights[row.seen..].fill(f32::NEG_INFINITY);
            let max = largest(row.max, weights);
            if max != row.max {
                row.rescale(max, out);
            }
            row.weigh(weights);
        }
    }
}

impl Row {
    /// Goes on with another maximum.
    #[inline(always)]
    fn rescale(&mut self, max: f32, out: &mut [f32]) {
        let decay = exp(self.max - max);
        self.max = max;
        for sum in &mut self.sums {
            *sum *= decay;
        }
        for out in out {
            *out *= decay;
        }
    }

    /// One span's scores, which become weights.
    #[inline(always)]
    fn weigh(&mut self, scores: &mut [f32; SPAN]) {
        let mut sums = self.sums;
        for scores in scores.as_chunks_mut::<LANES>().0 {
            for (score, sum) in scores.iter_mut().zip(&mut sums) {
                *score = exp(*score - self.max);
                *sum += *score;
            }
        }
        self.sums = sums;
    }
}

/// For [`soften`]; the order does not matter.
#[inline(always)]
pub fn largest(least: f32, scores: &[f32; SPAN]) -> f32 {
    let mut lanes = [least; LANES];
    for scores in scores.as_chunks::<LANES>().0 {
        for (lane, score) in lanes.iter_mut().zip(scores) {
            *lane = if score > lane { *score } else { *lane };
        }
    }
    lanes.iter().fold(least, |max, lane| if *lane > max { *lane } else { max })
}

/// Adds a span's weighted V rows `[.., width]` to the outputs.
#[inline(always)]
pub fn mix(tile: &mut Tile, v: &[f32]) {
    let Tile { width, rows, weights, out, .. } = tile;
    for ((row, weights), out) in rows.iter().zip(weights).zip(out.chunks_exact_mut(*width)) {
        let (v, weights) = (v.as_chunks::<LANES>().0, &weights[..row.seen]);
        let (several, single) = out.as_chunks_mut::<LANES>().0.as_chunks_mut::<CHUNKS>();
        let mut left = 0;
        for out in several {
            add(out, weights, &v[left..], *width / LANES);
            left += CHUNKS;
        }
        for out in single {
            add(std::array::from_mut(out), weights, &v[left..], *width / LANES);
            left += 1;
        }
    }
}

/// `out += weights * v`, a row of V every `pitch` chunks.
#[inline(always)]
fn add<const C: usize>(out: &mut [[f32; LANES]; C], weights: &[f32], v: &[[f32; LANES]], pitch: usize) {
    let mut sums = *out;
    for (weight, v) in weights.iter().zip(v.chunks(pitch)) {
        for (sums, v) in sums.iter_mut().zip(&v[..C]) {
            add_products(sums, &[*weight; LANES], v);
        }
    }
    *out = sums;
}

/// Adds the next stretch. Rows that see nothing of it stay as they are.
#[inline(always)]
pub fn join(total: &mut Total, tile: &Tile) {
    let rows = tile.rows.iter().zip(tile.out.chunks_exact(tile.width));
    for (gathered, (row, out)) in total.rows.iter_mut().zip(rows) {
        if row.end > tile.first {
            gathered.add(row, out);
        }
    }
}

impl Gathered<'_> {
    /// Both sides are brought to the larger maximum.
    #[inline(always)]
    fn add(&mut self, row: &Row, out: &[f32]) {
        let max = if row.max > self.max { row.max } else { self.max };
        let (before, now) = (exp(self.max - max), exp(row.max - max));
        self.max = max;
        add_scaled(&mut self.sums, before, &row.sums, now);
        add_scaled(self.out, before, out, now);
    }
}

/// `sums * before + more * now`, every product rounded.
#[inline(always)]
fn add_scaled(sums: &mut [f32], before: f32, more: &[f32], now: f32) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = *sum * before + more * now;
    }
}
