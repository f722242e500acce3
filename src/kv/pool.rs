//! Blocks of K and V and who holds them. Memory is taken and given back a slab at a time, up to a limit.

use super::kind::Shape;
use super::slab::Slab;
use crate::error::{Error, Result};
use crate::types::KvRows;
use half::slice::HalfFloatSliceExt;
use std::collections::BTreeSet;

/// A block of the pool: K and V of 64 positions of one layer and KV head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockId(u32);

/// Blocks of one shape.
#[derive(Debug)]
pub(super) struct Pool {
    shape: Shape,
    /// Slabs at most.
    limit: usize,
    /// Slab `i` has the blocks from `i * shape.heads()` on; empty where it was given back.
    slabs: Vec<Slab>,
    /// How many heads hold each block: `[slabs * shape.heads()]`.
    holders: Vec<u32>,
    /// Blocks of mapped slabs that nobody holds. The lowest is taken first, so that the last slabs become empty.
    free: BTreeSet<BlockId>,
}

impl Pool {
    pub(super) fn new(shape: Shape, limit: Option<usize>) -> Pool {
        let most = u32::MAX as usize / shape.heads();
        let limit = limit.map_or(most, |slabs| slabs.min(most));
        Pool { shape, limit, slabs: Vec::new(), holders: Vec::new(), free: BTreeSet::new() }
    }

    fn mapped(&self) -> usize {
        self.slabs.iter().filter(|slab| slab.is_mapped()).count()
    }

    /// Bytes of all slabs.
    pub(super) fn bytes(&self) -> usize {
        self.mapped() * 2 * self.shape.heads() * self.shape.half_block() * self.shape.kind.bytes()
    }

    /// Makes sure that `blocks` blocks can be taken; says false if the limit does not allow it.
    ///
    /// # Errors
    /// [`Error::Memory`]. Nothing is kept then.
    pub(super) fn reserve(&mut self, blocks: usize) -> Result<bool> {
        let missing = blocks.saturating_sub(self.free.len()).div_ceil(self.shape.heads());
        if missing > self.limit - self.mapped() {
            return Ok(false);
        }
        for _ in 0..missing {
            if let Err(error) = self.map() {
                (0..self.slabs.len()).for_each(|slab| self.unmap_if_empty(slab));
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Maps one more slab.
    fn map(&mut self) -> Result<()> {
        let memory = Slab::new(&self.shape)?;
        let vacant = self.slabs.iter().position(|slab| !slab.is_mapped());
        let slab = vacant.unwrap_or(self.slabs.len());
        match vacant {
            Some(slab) => self.slabs[slab] = memory,
            None => self.slabs.push(memory),
        }
        self.holders.resize(self.slabs.len() * self.shape.heads(), 0);
        self.free.extend(self.blocks_of(slab));
        Ok(())
    }

    fn blocks_of(&self, slab: usize) -> impl Iterator<Item = BlockId> + use<> {
        let heads = self.shape.heads();
        (slab * heads..(slab + 1) * heads).map(|index| BlockId(index as u32))
    }

    fn unmap_if_empty(&mut self, slab: usize) {
        // Plain counters, not the set of free blocks: this is asked for every block that is released.
        let heads = self.shape.heads();
        if self.holders[slab * heads..(slab + 1) * heads].iter().all(|holders| *holders == 0) {
            self.slabs[slab] = Slab::unmapped(self.shape.kind);
            for block in self.blocks_of(slab) {
                self.free.remove(&block);
            }
        }
    }

    /// A block that was reserved, held once.
    pub(super) fn take(&mut self) -> Result<BlockId> {
        let block = self.free.pop_first().ok_or(Error::Internal("a KV block is taken only where it was reserved"))?;
        self.holders[block.0 as usize] = 1;
        Ok(block)
    }

    /// One holder more.
    pub(super) fn share(&mut self, block: BlockId) {
        self.holders[block.0 as usize] += 1;
    }

    /// One holder less.
    pub(super) fn release(&mut self, block: BlockId) {
        self.holders[block.0 as usize] -= 1;
        if self.holders[block.0 as usize] == 0 {
            self.free.insert(block);
            self.unmap_if_empty(block.0 as usize / self.shape.heads());
        }
    }

    pub(super) fn is_shared(&self, block: BlockId) -> bool {
        self.holders[block.0 as usize] > 1
    }

    /// A holder's own copy of a block that it shares; the block itself if it does not.
    pub(super) fn own(&mut self, block: BlockId) -> Result<BlockId> {
        if !self.is_shared(block) {
            return Ok(block);
        }
        let copy = self.take()?;
        let (k, v) = self.read(block);
        // Widening and rounding again gives the same numbers.
        let values: Vec<f32> = [k, v].into_iter().flat_map(widened).collect();
        self.write_at(copy, 0, &values);
        self.release(block);
        Ok(copy)
    }

    /// K and V of all positions, each `[BLOCK_POSITIONS, head_dim]`.
    pub(super) fn read(&self, block: BlockId) -> (KvRows<'_>, KvRows<'_>) {
        let (slab, first) = self.place(block);
        let (middle, end) = (first + self.shape.half_block(), first + 2 * self.shape.half_block());
        (self.slabs[slab].read(first..middle), self.slabs[slab].read(middle..end))
    }

    /// Rounds and stores the K and V of one position.
    pub(super) fn write(&mut self, block: BlockId, row: usize, k: &[f32], v: &[f32]) {
        self.write_at(block, row * k.len(), k);
        self.write_at(block, self.shape.half_block() + row * v.len(), v);
    }

    fn write_at(&mut self, block: BlockId, at: usize, values: &[f32]) {
        let (slab, first) = self.place(block);
        self.slabs[slab].write(first + at, values);
    }

    /// Slab and first element of a block.
    fn place(&self, block: BlockId) -> (usize, usize) {
        let (slab, index) = (block.0 as usize / self.shape.heads(), block.0 as usize % self.shape.heads());
        (slab, index * 2 * self.shape.half_block())
    }

    /// Checks its own rules against the blocks that all heads hold, one entry a holder.
    pub(super) fn validate(&self, held: impl Iterator<Item = BlockId>) -> Result<()> {
        let rule = |holds: bool, rule: &'static str| if holds { Ok(()) } else { Err(Error::Internal(rule)) };
        let mut holders = vec![0; self.holders.len()];
        held.for_each(|block| holders[block.0 as usize] += 1);
        rule(holders == self.holders, "a KV block knows how many hold it")?;
        rule(self.mapped() <= self.limit, "KV slabs stay below their limit")?;
        (0..self.slabs.len()).try_for_each(|slab| {
            let free = self.blocks_of(slab).filter(|b| self.free.contains(b)).count();
            let held = self.blocks_of(slab).filter(|b| holders[b.0 as usize] > 0).count();
            let whole = if self.slabs[slab].is_mapped() { self.shape.heads() } else { 0 };
            rule(free + held == whole, "a KV block of a mapped slab is held or free")?;
            rule(held > 0 || whole == 0, "a KV slab without held blocks is given back")
        })?;
        rule(self.free.iter().all(|b| holders[b.0 as usize] == 0), "a free KV block has no holder")
    }
}

fn widened(rows: KvRows<'_>) -> Vec<f32> {
    match rows {
        KvRows::F16(all) => all.to_f32_vec(),
        KvRows::F32(all) => all.to_vec(),
    }
}
