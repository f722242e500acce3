//! What a cache holds of one sequence: its rope and, per layer and KV head, a row of blocks.

use super::block::{BLOCK_POSITIONS, Block, Meter};
use std::sync::Arc;

/// The rotary embedding of a sequence; its frequencies may depend on the length of the whole prompt, so it belongs
/// to the sequence and not to the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Radians per position of each pair of elements: `[head_dim / 2]`.
    pub inv_freq: Vec<f32>,
    /// Factor on cosines and sines; 1 without scaling.
    pub attention_factor: f32,
}

/// One sequence. A clone shares every block.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) rope: Arc<Rope>,
    /// `[layers * kv_heads]`.
    pub(super) heads: Vec<Head>,
}

impl Sequence {
    pub(super) fn new(rope: Rope, heads: usize) -> Sequence {
        Sequence { rope: Arc::new(rope), heads: vec![Head::default(); heads] }
    }
}

/// K and V of one layer and KV head.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    length: usize,
    blocks: Vec<Arc<Block>>,
}

impl Head {
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    /// Appends one position; copies the last block first if a fork shares it.
    pub(super) fn push(&mut self, k: &[f32], v: &[f32], meter: &Meter) {
        let row = self.length % BLOCK_POSITIONS;
        if row == 0 {
            self.blocks.push(Arc::new(Block::new(k.len(), meter)));
        }
        if let Some(last) = self.blocks.last_mut() {
            Arc::make_mut(last).write(row, k, v);
        }
        self.length += 1;
    }

    /// Forgets the positions from `length` on, if there are any.
    pub(super) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.blocks.truncate(self.length.div_ceil(BLOCK_POSITIONS));
    }

    pub(super) fn is_sound(&self, head_dim: usize) -> bool {
        let elements = BLOCK_POSITIONS * head_dim;
        let sized = |(k, v): (&[f32], &[f32])| k.len() == elements && v.len() == elements;
        self.blocks.len() == self.length.div_ceil(BLOCK_POSITIONS) && self.blocks.iter().all(|b| sized(b.read()))
    }
}

/// K and V of one layer and KV head of a sequence, to be read. Borrows the cache, so it ends before the next change.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    head: &'a Head,
    head_dim: usize,
}

impl<'a> HeadView<'a> {
    pub(super) fn new(head: &'a Head, head_dim: usize) -> HeadView<'a> {
        HeadView { head, head_dim }
    }

    /// Positions held.
    pub fn length(&self) -> usize {
        self.head.length
    }

    /// K rows and V rows block by block, by rising position: each `[rows, head_dim]`, 64 rows but in the last block.
    pub fn blocks(&self) -> impl Iterator<Item = (&'a [f32], &'a [f32])> + use<'a> {
        let HeadView { head, head_dim } = *self;
        head.blocks.iter().enumerate().map(move |(index, block)| {
            let rows = (head.length - index * BLOCK_POSITIONS).min(BLOCK_POSITIONS);
            let (k, v) = block.read();
            (&k[..rows * head_dim], &v[..rows * head_dim])
        })
    }
}
