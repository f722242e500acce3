//! What a cache holds of one sequence: its rope and, per layer and KV head, a row of blocks.

use super::BLOCK_POSITIONS;
use super::pool::{BlockId, Pool};
use crate::error::{Error, Result};
use crate::types::KvRows;
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

/// One sequence.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) rope: Arc<Rope>,
    /// `[layers * kv_heads]`.
    pub(super) heads: Vec<Head>,
}

impl Sequence {
    pub(super) fn new(rope: Rope, heads: usize) -> Sequence {
        Sequence { rope: Arc::new(rope), heads: (0..heads).map(|_| Head::default()).collect() }
    }

    /// A second holder of every block.
    pub(super) fn fork(&self, pool: &mut Pool) -> Sequence {
        Sequence { rope: self.rope.clone(), heads: self.heads.iter().map(|head| head.fork(pool)).collect() }
    }
}

/// K and V of one layer and KV head.
#[derive(Debug, Default)]
pub(super) struct Head {
    length: usize,
    blocks: Vec<BlockId>,
}

impl Head {
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    fn fork(&self, pool: &mut Pool) -> Head {
        self.blocks.iter().for_each(|block| pool.share(*block));
        Head { length: self.length, blocks: self.blocks.clone() }
    }

    /// Blocks that `count` more positions take: new ones, and a copy of the last if a fork shares it.
    pub(super) fn missing(&self, count: usize, pool: &Pool) -> usize {
        let copied = match self.blocks.last() {
            Some(last) => count > 0 && !self.length.is_multiple_of(BLOCK_POSITIONS) && pool.is_shared(*last),
            None => false,
        };
        (self.length + count).div_ceil(BLOCK_POSITIONS) - self.blocks.len() + usize::from(copied)
    }

    /// Appends one position to blocks that were reserved.
    pub(super) fn push(&mut self, k: &[f32], v: &[f32], pool: &mut Pool) -> Result<()> {
        let row = self.length % BLOCK_POSITIONS;
        if row == 0 {
            self.blocks.push(pool.take()?);
        }
        let last = self.blocks.last_mut().ok_or(Error::Internal("a KV head with positions has blocks"))?;
        *last = pool.own(*last)?;
        pool.write(*last, row, k, v);
        self.length += 1;
        Ok(())
    }

    /// Forgets the positions from `length` on, if there are any.
    pub(super) fn truncate(&mut self, length: usize, pool: &mut Pool) {
        self.length = self.length.min(length);
        let rest = self.blocks.split_off(self.length.div_ceil(BLOCK_POSITIONS));
        rest.into_iter().for_each(|block| pool.release(block));
    }

    pub(super) fn is_sound(&self) -> bool {
        self.blocks.len() == self.length.div_ceil(BLOCK_POSITIONS)
    }
}

/// K and V of one layer and KV head of a sequence, to be read. Borrows the cache, so it ends before the next change.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    head: &'a Head,
    pool: &'a Pool,
    head_dim: usize,
}

impl<'a> HeadView<'a> {
    pub(super) fn new(head: &'a Head, pool: &'a Pool, head_dim: usize) -> HeadView<'a> {
        HeadView { head, pool, head_dim }
    }

    /// Positions held.
    pub fn length(&self) -> usize {
        self.head.length
    }

    /// K rows and V rows block by block, by rising position: each `[rows, head_dim]`, 64 rows but in the last block.
    pub fn blocks(&self) -> impl Iterator<Item = (KvRows<'a>, KvRows<'a>)> + use<'a> {
        let HeadView { head, pool, head_dim } = *self;
        head.blocks.iter().enumerate().map(move |(index, block)| {
            let rows = (head.length - index * BLOCK_POSITIONS).min(BLOCK_POSITIONS);
            let (k, v) = pool.read(*block);
            (k.first(rows * head_dim), v.first(rows * head_dim))
        })
    }
}
