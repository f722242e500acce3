//! Query rows that share K and V: what is kept of them from span to span, and from stretch to stretch.

#![forbid(unsafe_code)]

use super::lanes::{LANES, fold16};

/// The heads of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// KV heads of this call; they may be a range of the model's.
    pub kv_heads: usize,
    /// Query heads that read one KV head: neighbours in a row of `q`.
    pub group: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on scores.
    pub scale: f32,
}

impl Heads {
    /// Elements of the query heads of one token that read one KV head.
    pub fn item(&self) -> usize {
        self.group * self.head_dim
    }
}

/// Positions between two looks at the largest score.
pub const SPAN: usize = 64;

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

    /// Bytes of tiles of so many rows.
    pub fn bytes(heads: &Heads, rows: usize) -> usize {
        let queries = 2 * heads.head_dim.next_multiple_of(LANES) * size_of::<f32>();
        rows * (size_of::<Row>() + size_of::<[f32; SPAN]>() + queries)
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

/// What the rows of a tile have gathered over stretches of positions, in the memory of the results.
pub struct Total<'a> {
    pub rows: Vec<Gathered<'a>>,
}

/// As in [`Row`], over all stretches so far.
pub struct Gathered<'a> {
    pub max: f32,
    pub sums: [f32; LANES],
    /// Sum of weighted V rows: `[head_dim]`.
    pub out: &'a mut [f32],
}

impl<'a> Total<'a> {
    /// Nothing yet; the results of tokens, `[group * head_dim]` each, will be in `out`.
    pub fn new(heads: &Heads, out: Vec<&'a mut [f32]>) -> Total<'a> {
        let gathered = |out: &'a mut [f32]| {
            out.fill(0.0);
            Gathered { max: f32::MIN, sums: [0.0; LANES], out }
        };
        Total { rows: out.into_iter().flat_map(|token| token.chunks_exact_mut(heads.head_dim)).map(gathered).collect() }
    }

    /// Query rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Leaves what attention gives.
    pub fn finish(self) {
        for Gathered { sums, out, .. } in self.rows {
            let total = fold16(sums);
            out.iter_mut().for_each(|out| *out /= total);
        }
    }
}
