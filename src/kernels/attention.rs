//! Causal attention over blocks of K and V, in f32. Rows of queries that share K and V are worked on together: all heads
//! that read one KV head, of up to as many neighbouring tokens of one sequence as fill a [`Tile`].
//!
//! **Order.** Positions are cut into stretches of 512 and these into spans of 64, counted from position 0. A score is a
//! dot product in sixteen lanes (lane `i` adds by rising index the products of the elements that are `i` modulo 16,
//! padded with zeros to whole lanes, each by one fused multiply-add), folded as in [`super::lanes`], then times the
//! scale. A span's largest score and those before in its stretch give the running maximum; sums and outputs so far are
//! multiplied by `exp(old maximum - new maximum)`. Weights `exp(score - maximum)` are summed in sixteen lanes by
//! position, each output element adds weight times v by rising position with fused multiply-adds. Stretches are joined
//! in order, beginning with none (sums of zero): sums and outputs of both sides times `exp(their maximum - the larger
//! one)`, products rounded, are added. In the end each output is divided by the folded sum. So a token's result depends
//! on its query and on the K and V of its positions alone: not on other tokens, threads, tiles or the size of blocks;
//! half-precision blocks give what their values give in single precision. No buffer grows with the length.
//!
//! **Threads** take tiles of query rows. Where these are few (a token of a model with few KV heads), they take the
//! stretches of a tile instead.
//!
//! The portable bodies ask for `f32::mul_add`: processors without that instruction compute it in software.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

pub use super::queries::Heads;

use super::lanes::LANES;
use super::queries::{Gathered, SPAN, STRETCH, Tile, Total};
use super::{Isa, dispatch};
use crate::types::{KvRows, Tokens};
use rayon::prelude::*;
use std::iter::Peekable;
use std::mem::take;
use std::ops::Range;

/// Query rows of a tile at most, if more than one token's. Each row reads K and V from the second cache, so a span is
/// fetched and widened once per tile.
const ROWS: usize = 64;

/// Tiles for each thread from which on nobody waits for the last one long enough to cut them.
const TILES: usize = 4;

/// Query rows in stretches for each thread that wait to be joined, if more than one stretch of each tile.
const WAITING: usize = 512;

/// Attention of N tokens: `q` and `out` are `[N, kv_heads * group * head_dim]`, token `t` sees positions
/// `0..=positions[t]` of its sequence.
///
/// `blocks(t, kv_head)` (the KV head counted from this call's first) yields the K rows and the V rows of token `t`'s
/// sequence by rising position, each `[rows, head_dim]`: a multiple of 64 rows in all but the last block, as many as the
/// neighbours of `t` in the same sequence see. Work items run on the current rayon pool.
///
/// # Panics
/// If a length does not fit, or if `blocks` yields too few rows.
pub fn attend<'a, F, I>(isa: Isa, heads: &Heads, q: &[f32], tokens: Tokens, blocks: F, out: &mut [f32])
where
    F: Fn(usize, usize) -> I + Sync,
    I: Iterator<Item = (KvRows<'a>, KvRows<'a>)>,
{
    let length = tokens.positions.len() * heads.kv_heads * heads.item();
    let fits = q.len() == length && out.len() == length && tokens.sequences.len() == tokens.positions.len();
    assert!(fits, "queries, outputs or sequences that do not fit the heads and positions");
    let (call, items) = (Call { isa, heads, q, tokens, blocks }, items(heads, tokens, out));
    let threads = rayon::current_num_threads();
    match items.len() % threads != 0 && items.len() < TILES * threads {
        true => call.by_stretches(items, threads),
        false => items.into_par_iter().for_each_init(Scratch::default, |scratch, item| call.whole(scratch, item)),
    }
}

/// Bytes that all threads take at most for attention of up to so many tokens at so many positions, beside `q` and `out`.
pub fn kept(heads: &Heads, tokens: usize, positions: usize, threads: usize) -> usize {
    let each = (ROWS / heads.group).max(1);
    let whole = threads * Tile::bytes(heads, tokens.min(each) * heads.group);
    // Of more tokens there are tiles enough, and none is cut into stretches.
    let cut = tokens.min((TILES * threads - 1) / heads.kv_heads * each) * heads.kv_heads * heads.group;
    let waiting = (WAITING * threads).max(cut).min(cut * positions.div_ceil(STRETCH));
    let wide = threads * SPAN * heads.head_dim.next_multiple_of(LANES) * size_of::<f32>();
    whole.max(Tile::bytes(heads, waiting) + cut * size_of::<Gathered>()) + wide
}

/// What [`attend`] was given.
struct Call<'c, F> {
    isa: Isa,
    heads: &'c Heads,
    q: &'c [f32],
    tokens: Tokens<'c>,
    blocks: F,
}

impl<'a, F, I> Call<'_, F>
where
    F: Fn(usize, usize) -> I + Sync,
    I: Iterator<Item = (KvRows<'a>, KvRows<'a>)>,
{
    /// All stretches of an item, one after another.
    fn whole(&self, scratch: &mut Scratch, mut item: Item) {
        let mut total = Total::new(self.heads, take(&mut item.out));
        let mut spans = self.spans(&item).peekable();
        for stretch in 0..self.stretches(&item) {
            self.begin(&mut scratch.tile, &item, stretch);
            attend_spans(self.isa, scratch, &mut spans);
            dispatch::join(self.isa, &mut total, &scratch.tile);
        }
        total.finish();
    }

    /// Stretches of all items at the same time: as many as may wait, then they are joined.
    fn by_stretches(&self, mut items: Vec<Item>, threads: usize) {
        let mut totals: Vec<Total> = items.iter_mut().map(|item| Total::new(self.heads, take(&mut item.out))).collect();
        let most = items.iter().map(|item| self.stretches(item)).max().unwrap_or(0);
        let rows: usize = totals.iter().map(Total::rows).sum();
        let together = (WAITING * threads / rows.max(1)).max(1);
        for first in (0..most).step_by(together) {
            let stretches = |item| first..self.stretches(item).min(first + together);
            let work: Vec<_> =
                items.iter().enumerate().flat_map(|(i, item)| stretches(item).map(move |s| (i, item, s))).collect();
            let tile = |scratch: &mut Scratch, (_, item, stretch): &(usize, &Item, usize)| {
                self.begin(&mut scratch.tile, item, *stretch);
                attend_spans(self.isa, scratch, &mut self.spans(item).skip(stretch * STRETCH / SPAN).peekable());
                take(&mut scratch.tile)
            };
            let tiles: Vec<Tile> = work.par_iter().map_init(Scratch::default, tile).collect();
            work.iter().zip(tiles).for_each(|((item, ..), tile)| dispatch::join(self.isa, &mut totals[*item], &tile));
        }
        totals.into_iter().for_each(Total::finish);
    }

    /// Positions that a token sees.
    fn end(&self, token: usize) -> usize {
        self.tokens.positions[token] as usize + 1
    }

    fn stretches(&self, item: &Item) -> usize {
        item.tokens.clone().map(|token| self.end(token).div_ceil(STRETCH)).max().unwrap_or(0)
    }

    /// Makes a tile of the item's queries.
    fn begin(&self, tile: &mut Tile, item: &Item, stretch: usize) {
        let size = self.heads.item();
        let query = |token: usize| &self.q[(token * self.heads.kv_heads + item.kv_head) * size..][..size];
        let rows = item.tokens.clone().map(|token| (query(token), self.end(token)));
        tile.begin(self.heads, stretch * STRETCH, rows);
    }

    /// The rows that an item's tokens see, by spans.
    fn spans(&self, item: &Item) -> impl Iterator<Item = (KvRows<'a>, KvRows<'a>)> {
        let d = self.heads.head_dim;
        (self.blocks)(item.tokens.start, item.kv_head).flat_map(move |(k, v)| spans(k, d).zip(spans(v, d)))
    }
}

/// Neighbouring tokens of one sequence at one KV head.
struct Item<'a> {
    kv_head: usize,
    tokens: Range<usize>,
    /// `[tokens][group * head_dim]`.
    out: Vec<&'a mut [f32]>,
}

/// The work of a call: a head's tiles follow each other, so that its K and V are met in the last cache again.
fn items<'a>(heads: &Heads, tokens: Tokens, out: &'a mut [f32]) -> Vec<Item<'a>> {
    let tiles = tiles(tokens.sequences, (ROWS / heads.group).max(1));
    let item = |kv_head, tokens: &Range<usize>| Item { kv_head, tokens: tokens.clone(), out: Vec::new() };
    let mut items: Vec<_> = (0..heads.kv_heads).flat_map(|head| tiles.iter().map(move |t| item(head, t))).collect();
    let mut parts = out.chunks_exact_mut(heads.item());
    for (tile, tokens) in tiles.iter().enumerate() {
        for _ in tokens.clone() {
            let of_token = items.iter_mut().skip(tile).step_by(tiles.len());
            of_token.zip(&mut parts).for_each(|(item, part)| item.out.push(part));
        }
    }
    items
}

/// Runs of one sequence, `most` tokens at a time.
fn tiles(sequences: &[u32], most: usize) -> Vec<Range<usize>> {
    let mut first = 0;
    let runs = sequences.chunk_by(|a, b| a == b).flat_map(|run| run.chunks(most));
    let tile = |run: &[u32]| {
        first += run.len();
        first - run.len()..first
    };
    runs.map(tile).collect()
}

/// What a thread keeps between items.
#[derive(Debug, Default)]
struct Scratch {
    tile: Tile,
    /// Rows of a span in single precision.
    wide: Vec<f32>,
}

/// Takes the scratch's tile through the positions of its stretch.
fn attend_spans<'a>(
    isa: Isa,
    scratch: &mut Scratch,
    spans: &mut Peekable<impl Iterator<Item = (KvRows<'a>, KvRows<'a>)>>,
) {
    let Scratch { tile, wide } = scratch;
    let (mut first, end, d) = (tile.first, tile.end(), tile.head_dim());
    while first < end {
        let Some((k, v)) = spans.next() else { panic!("attention at position {} over {first} rows", end - 1) };
        assert!(first.is_multiple_of(SPAN), "attention over {first} rows before the last block");
        let then = spans.peek().map_or(v, |(k, _)| *k);
        tile.see(first, k.elements() / d);
        dispatch::score(isa, tile, k, v, wide);
        dispatch::soften(isa, tile);
        dispatch::mix(isa, tile, v, then, wide);
        first += k.elements() / d;
    }
}

/// A block of rows by 64.
fn spans(rows: KvRows, head_dim: usize) -> impl Iterator<Item = KvRows> {
    let (all, span) = (rows.elements(), SPAN * head_dim);
    (0..all).step_by(span).map(move |first| rows.slice(first..all.min(first + span)))
}
