//! Query rows that share K and V: what is kept of them from span to span, and the passes over a span.

use super::Heads;
use crate::kernels::exp::exp;
use crate::kernels::lanes::{LANES, fold16};

/// Positions between two looks at the largest score.
pub const SPAN: usize = 64;

/// Chunks of sixteen output elements that stay in registers over a span.
const CHUNKS: usize = 4;

/// Positions whose sums are made apart from all others: a multiple of [`SPAN`].
pub const STRETCH: usize = 512;

/// Query rows on a stretch of positions, `head_dim` elements padded with zeros to `width`: whole lanes.
#[derive(Debug, Default)]
pub struct Tile {
    head_dim: usize,
    pub width: usize,
    pub scale: f32,
    /// First position of the stretch.
    pub first: usize,
    pub rows: Vec<Row>,
    /// `[rows, width]`.
    pub q: Vec<f32>,
    /// Scores of a span, then its weights.
    pub weights: Vec<[f32; SPAN]>,
    /// Sums of weighted V rows so far: `[rows, width]`.
    pub out: Vec<f32>,
}

/// How far a query row is in the stretch.
#[derive(Debug)]
pub struct Row {
    /// Positions that it sees, counted from 0.
    pub end: usize,
    /// Those of them that lie in this span.
    pub seen: usize,
    /// The largest score so far. It starts at the least number: scores of minus infinity then weigh nothing, and a row
    /// that has no others divides zero by zero.
    pub max: f32,
    /// Sums of the weights so far, by position modulo 16.
    pub sums: [f32; LANES],
}

impl Tile {
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Where the stretch ends for the row which sees most.
    pub fn end(&self) -> usize {
        self.rows.iter().map(|row| row.end).max().unwrap_or(0).min(self.first + STRETCH)
    }

    /// Takes new rows to the stretch from `first` on: the queries of tokens, `[group * head_dim]`, and how many
    /// positions each token sees.
    pub fn begin<'a>(&mut self, heads: &Heads, first: usize, tokens: impl Iterator<Item = (&'a [f32], usize)>) {
        (self.head_dim, self.width) = (heads.head_dim, heads.head_dim.next_multiple_of(LANES));
        (self.scale, self.first) = (heads.scale, first);
        self.rows.clear();
        self.q.clear();
        for (queries, end) in tokens {
            for q in queries.chunks_exact(self.head_dim) {
                self.q.extend(q);
                self.rows.push(Row { end, seen: 0, max: f32::MIN, sums: [0.0; LANES] });
                self.q.resize(self.rows.len() * self.width, 0.0);
            }
        }
        self.weights.resize(self.rows.len(), [0.0; SPAN]);
        self.out.clear();
        self.out.resize(self.q.len(), 0.0);
    }

    /// Turns to the span of `count` positions from `first` on.
    pub fn see(&mut self, first: usize, count: usize) {
        self.rows.iter_mut().for_each(|row| row.seen = row.end.saturating_sub(first).min(count));
    }
}

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
