//! The KV cache: blocks of 64 positions per layer and KV head, append, read, truncate, fork, free.
//!
//! Pure: no I/O, no clocks, no threads. A forked sequence shares its blocks until one side writes into one. Memory is
//! taken in slabs, each what 64 positions of one sequence need, and given back when nothing in a slab is held.

#![forbid(unsafe_code)]

mod kind;
mod pool;
mod sequence;
mod slab;
#[cfg(test)]
mod tests;

pub use kind::{KvKind, Shape};
pub use sequence::{HeadView, Rope};

use crate::error::{Error, Result};
use crate::types::LayerId;
use pool::Pool;
use sequence::{Head, Sequence};
use std::collections::BTreeMap;
use std::ops::Range;

/// Positions of a block, whatever the model: strides inside a block do not depend on capacity.
pub const BLOCK_POSITIONS: usize = 64;

/// A sequence of a cache. Ids are never used twice, so a freed one cannot name another sequence later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u32);

/// K and V of every sequence.
///
/// Lengths are per layer and KV head: a forward appends to one layer, and to a range of heads, at a time. A forward
/// that failed half-way leaves them uneven until [`KvCache::truncate`] evens them out.
#[derive(Debug)]
pub struct KvCache {
    shape: Shape,
    capacity: Option<usize>,
    sequences: BTreeMap<SequenceId, Sequence>,
    next: u32,
    pool: Pool,
}

impl KvCache {
    /// An empty cache that holds at most `capacity` positions, counted over all sequences in whole blocks of 64; none
    /// is bound by memory alone. [`Shape::bytes_for`] says what that takes at most.
    ///
    /// # Errors
    /// [`Error::Usage`] for a capacity of 0.
    pub fn new(shape: Shape, capacity: Option<usize>) -> Result<KvCache> {
        if capacity == Some(0) {
            return Err(Error::usage("a KV cache with a capacity of 0 positions; one is the least"));
        }
        let slabs = capacity.map(|positions| positions.div_ceil(BLOCK_POSITIONS));
        let pool = Pool::new(shape, slabs);
        Ok(KvCache { shape, capacity, sequences: BTreeMap::new(), next: 0, pool })
    }

    /// A new, empty sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] if the rope does not fit the heads or is not finite, or if all 2^32 ids were used.
    pub fn create(&mut self, rope: Rope) -> Result<SequenceId> {
        let (given, want) = (rope.inv_freq.len(), self.shape.head_dim / 2);
        if given != want {
            let rule = format!("a head dimension of {} takes {want}", self.shape.head_dim);
            return Err(Error::usage(format!("rope with {given} inverse frequencies: {rule}")));
        }
        if !(rope.attention_factor.is_finite() && rope.inv_freq.iter().all(|f| f.is_finite())) {
            return Err(Error::usage("rope whose inverse frequencies or attention factor are not finite"));
        }
        let id = self.next_id()?;
        self.sequences.insert(id, Sequence::new(rope, self.shape.heads()));
        Ok(id)
    }

    /// A new sequence with the same rope and positions; blocks are shared and copied when one side writes.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence is unknown, or if all 2^32 ids were used.
    pub fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId> {
        self.sequence(sequence)?;
        let id = self.next_id()?;
        let copy = self.sequences.get(&sequence).map(|entry| entry.fork(&mut self.pool));
        self.sequences.extend(copy.map(|copy| (id, copy)));
        Ok(id)
    }

    fn next_id(&mut self) -> Result<SequenceId> {
        let id = SequenceId(self.next);
        let used = || Error::usage("all 2^32 sequence ids of this KV cache were used; make a new cache");
        self.next = self.next.checked_add(1).ok_or_else(used)?;
        Ok(id)
    }

    /// Removes a sequence; blocks that no fork shares can be used again.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence is unknown.
    pub fn free(&mut self, sequence: SequenceId) -> Result<()> {
        let mut entry = self.sequences.remove(&sequence).ok_or_else(|| unknown(sequence))?;
        entry.heads.iter_mut().for_each(|head| head.truncate(0, &mut self.pool));
        Ok(())
    }

    /// Appends n positions to the KV heads `heads` of a layer. `k` and `v` are `[n, heads.len() * head_dim]`, K
    /// already rotated; the first row's position is `position`, which must be the length these heads have now. Values
    /// are rounded to the cache's kind.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence, layer or heads are unknown, a length does not fit, or positions would have a
    /// gap or an overlap; [`Error::KvFull`] beyond the capacity; [`Error::Memory`]. Nothing is appended then.
    pub fn append(
        &mut self,
        layer: LayerId,
        sequence: SequenceId,
        heads: Range<usize>,
        position: usize,
        k: &[f32],
        v: &[f32],
    ) -> Result<()> {
        self.check_rows(sequence, &heads, k, v)?;
        self.check_continuity(layer, sequence, heads.clone(), position)?;
        let (first, d) = (self.index(layer, sequence, heads.start)?, self.shape.head_dim);
        let row = heads.len() * d;
        self.reserve(sequence, first..first + heads.len(), k.len() / row)?;
        let entry = self.sequences.get_mut(&sequence).ok_or_else(|| unknown(sequence))?;
        for (k, v) in k.chunks_exact(row).zip(v.chunks_exact(row)) {
            for ((head, k), v) in entry.heads[first..].iter_mut().zip(k.chunks_exact(d)).zip(v.chunks_exact(d)) {
                head.push(k, v, &mut self.pool)?;
            }
        }
        Ok(())
    }

    /// Makes sure that some heads of a sequence can take `count` more positions.
    fn reserve(&mut self, sequence: SequenceId, heads: Range<usize>, count: usize) -> Result<()> {
        let entry = self.sequences.get(&sequence).ok_or_else(|| unknown(sequence))?;
        let blocks = entry.heads[heads.clone()].iter().map(|head| head.missing(count, &self.pool)).sum();
        if self.pool.reserve(blocks)? {
            return Ok(());
        }
        let first = entry.heads[heads.start].length();
        Err(Error::KvFull { sequence: sequence.0, first, last: first + count - 1, capacity: self.capacity })
    }

    fn check_rows(&self, sequence: SequenceId, heads: &Range<usize>, k: &[f32], v: &[f32]) -> Result<()> {
        let row = heads.len() * self.shape.head_dim;
        if row > 0 && k.len() == v.len() && k.len().is_multiple_of(row) {
            return Ok(());
        }
        let rows = format!("K of {} and V of {} elements are no rows of KV heads {heads:?}", k.len(), v.len());
        Err(Error::usage(format!("{}: {rows}, {} elements each", name(sequence), self.shape.head_dim)))
    }

    fn check_continuity(
        &self,
        layer: LayerId,
        sequence: SequenceId,
        heads: Range<usize>,
        position: usize,
    ) -> Result<()> {
        for head in heads {
            let held = self.head(layer, sequence, head)?.length();
            if held != position {
                let place = format!("layer {}, KV head {head}", layer.0);
                let rule = format!("holds {held} positions; positions to append start at {position}");
                return Err(Error::usage(format!("{}: {place} {rule}", name(sequence))));
            }
        }
        Ok(())
    }

    /// K and V of one layer and KV head.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence, layer or head is unknown.
    pub fn read(&self, layer: LayerId, sequence: SequenceId, kv_head: usize) -> Result<HeadView<'_>> {
        Ok(HeadView::new(self.head(layer, sequence, kv_head)?, &self.pool, self.shape.head_dim))
    }

    /// The rope that the sequence was created with.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence is unknown.
    pub fn rope(&self, sequence: SequenceId) -> Result<&Rope> {
        Ok(&self.sequence(sequence)?.rope)
    }

    /// Every layer, as a range.
    pub fn layers(&self) -> Range<usize> {
        0..self.shape.layers
    }

    /// Positions that all KV heads of some layers hold (a stage of a pipeline has layers of its own).
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence or a layer is unknown, or no layer is named.
    pub fn length(&self, sequence: SequenceId, layers: Range<usize>) -> Result<usize> {
        let heads = self.heads_of(sequence, layers)?;
        Ok(self.sequence(sequence)?.heads[heads].iter().map(Head::length).min().unwrap_or(0))
    }

    fn heads_of(&self, sequence: SequenceId, layers: Range<usize>) -> Result<Range<usize>> {
        let Shape { layers: all, kv_heads, .. } = self.shape;
        match layers.start < layers.end && layers.end <= all {
            true => Ok(layers.start * kv_heads..layers.end * kv_heads),
            false => Err(Error::usage(format!("{}: layers {layers:?} of {all}", name(sequence)))),
        }
    }

    /// Forgets the positions from `length` on in some layers, so that each of their heads holds exactly `length`: drops
    /// rejected drafts, and repairs a forward that failed half-way.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence or a layer is unknown or a head holds fewer positions. Nothing is forgotten then.
    pub fn truncate(&mut self, sequence: SequenceId, length: usize, layers: Range<usize>) -> Result<()> {
        let heads = self.heads_of(sequence, layers.clone())?;
        let held = self.length(sequence, layers)?;
        if length > held {
            let rule = format!("cannot be truncated to {length} positions: a head of it holds {held}");
            return Err(Error::usage(format!("{} {rule}", name(sequence))));
        }
        let entry = self.sequences.get_mut(&sequence).ok_or_else(|| unknown(sequence))?;
        entry.heads[heads].iter_mut().for_each(|head| head.truncate(length, &mut self.pool));
        Ok(())
    }

    /// Bytes of keys and values in memory, shared blocks counted once; tables (some 50 bytes a block) are left out.
    pub fn bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// Checks the cache's own rules in time linear in its blocks: for tests.
    ///
    /// # Errors
    /// [`Error::Internal`] with the broken rule.
    pub fn validate(&self) -> Result<()> {
        let rule = |holds: bool, rule: &'static str| if holds { Ok(()) } else { Err(Error::Internal(rule)) };
        let heads = || self.sequences.values().flat_map(|s| &s.heads);
        let shape = self.sequences.values().all(|s| s.heads.len() == self.shape.heads());
        rule(shape, "a sequence has one head per layer and KV head")?;
        rule(heads().all(Head::is_sound), "a head has the blocks that its length takes")?;
        rule(self.sequences.keys().all(|id| id.0 < self.next), "a sequence id is used once")?;
        self.pool.validate(heads().flat_map(Head::blocks).copied())
    }

    fn sequence(&self, sequence: SequenceId) -> Result<&Sequence> {
        self.sequences.get(&sequence).ok_or_else(|| unknown(sequence))
    }

    fn head(&self, layer: LayerId, sequence: SequenceId, kv_head: usize) -> Result<&Head> {
        let index = self.index(layer, sequence, kv_head)?;
        Ok(&self.sequence(sequence)?.heads[index])
    }

    fn index(&self, layer: LayerId, sequence: SequenceId, kv_head: usize) -> Result<usize> {
        let at = layer.0 as usize;
        let Shape { layers, kv_heads, .. } = self.shape;
        if at < layers && kv_head < kv_heads {
            return Ok(at * kv_heads + kv_head);
        }
        let rule = format!("the cache has {layers} layers x {kv_heads} KV heads");
        Err(Error::usage(format!("{}: layer {at}, KV head {kv_head} asked for, but {rule}", name(sequence))))
    }
}

fn name(sequence: SequenceId) -> String {
    format!("sequence {}", sequence.0)
}

fn unknown(sequence: SequenceId) -> Error {
    Error::usage(format!("{} is not in this KV cache: it was freed or never created", name(sequence)))
}
