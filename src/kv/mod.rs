//! The KV cache: blocks of 64 positions per layer and KV head, append, read, truncate, fork, free.
//!
//! Pure: no I/O, no clocks, no threads. A forked sequence shares its blocks until one side writes into one.

#![forbid(unsafe_code)]

mod block;
mod sequence;
#[cfg(test)]
mod tests;

pub use block::BLOCK_POSITIONS;
pub use sequence::{HeadView, Rope};

use crate::error::{Error, Result};
use crate::types::LayerId;
use block::Meter;
use sequence::{Head, Sequence};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Layers x KV heads, or elements of a head, beyond which a shape is a mistake.
const MAX_DIM: usize = 1 << 24;

/// A sequence of a cache. Ids are never used twice, so a freed one cannot name another sequence later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u32);

/// K and V of every sequence.
///
/// Lengths are per layer and KV head: a forward appends to one layer, and to a range of heads, at a time. A forward
/// that failed half-way leaves them uneven until [`KvCache::truncate`] evens them out.
#[derive(Debug)]
pub struct KvCache {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    sequences: BTreeMap<SequenceId, Sequence>,
    next: u32,
    meter: Meter,
}

impl KvCache {
    /// An empty cache for heads of `head_dim` elements.
    ///
    /// # Errors
    /// [`Error::Usage`] if a size is zero or absurd, or `head_dim` is odd.
    pub fn new(layers: usize, kv_heads: usize, head_dim: usize) -> Result<KvCache> {
        let heads = layers.saturating_mul(kv_heads);
        if heads == 0 || heads > MAX_DIM {
            let rule = format!("the product must lie in 1..={MAX_DIM}");
            return Err(Error::usage(format!("KV cache of {layers} layers x {kv_heads} KV heads: {rule}")));
        }
        if head_dim == 0 || head_dim > MAX_DIM || !head_dim.is_multiple_of(2) {
            let rule = format!("it must be even and lie in 2..={MAX_DIM}");
            return Err(Error::usage(format!("KV cache with a head dimension of {head_dim}: {rule}")));
        }
        let (sequences, meter) = (BTreeMap::new(), Meter::default());
        Ok(KvCache { layers, kv_heads, head_dim, sequences, next: 0, meter })
    }

    /// A new, empty sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] if the rope does not fit the heads or is not finite, or if all 2^32 ids were used.
    pub fn create(&mut self, rope: Rope) -> Result<SequenceId> {
        let (given, want) = (rope.inv_freq.len(), self.head_dim / 2);
        if given != want {
            let rule = format!("a head dimension of {} takes {want}", self.head_dim);
            return Err(Error::usage(format!("rope with {given} inverse frequencies: {rule}")));
        }
        if !(rope.attention_factor.is_finite() && rope.inv_freq.iter().all(|f| f.is_finite())) {
            return Err(Error::usage("rope whose inverse frequencies or attention factor are not finite"));
        }
        self.insert(Sequence::new(rope, self.layers * self.kv_heads))
    }

    /// A new sequence with the same rope and positions; blocks are shared and copied when one side writes.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence is unknown, or if all 2^32 ids were used.
    pub fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId> {
        let copy = self.sequence(sequence)?.clone();
        self.insert(copy)
    }

    fn insert(&mut self, sequence: Sequence) -> Result<SequenceId> {
        let id = SequenceId(self.next);
        let used = || Error::usage("all 2^32 sequence ids of this KV cache were used; make a new cache");
        self.next = self.next.checked_add(1).ok_or_else(used)?;
        self.sequences.insert(id, sequence);
        Ok(id)
    }

    /// Removes a sequence; blocks that no fork shares are returned to the system.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence is unknown.
    pub fn free(&mut self, sequence: SequenceId) -> Result<()> {
        self.sequences.remove(&sequence).map(drop).ok_or_else(|| unknown(sequence))
    }

    /// Appends n positions to the KV heads `heads` of a layer. `k` and `v` are `[n, heads.len() * head_dim]`, K
    /// already rotated; the first row's position is `position`, which must be the length these heads have now.
    ///
    /// # Errors
    /// [`Error::Usage`] if the sequence, layer or heads are unknown, a length does not fit, or positions would have a
    /// gap or an overlap. Nothing is appended then.
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
        let (first, d) = (self.index(layer, sequence, heads.start)?, self.head_dim);
        let entry = self.sequences.get_mut(&sequence).ok_or_else(|| unknown(sequence))?;
        for (k, v) in k.chunks_exact(heads.len() * d).zip(v.chunks_exact(heads.len() * d)) {
            for ((head, k), v) in entry.heads[first..].iter_mut().zip(k.chunks_exact(d)).zip(v.chunks_exact(d)) {
                head.push(k, v, &self.meter);
            }
        }
        Ok(())
    }

    fn check_rows(&self, sequence: SequenceId, heads: &Range<usize>, k: &[f32], v: &[f32]) -> Result<()> {
        let row = heads.len() * self.head_dim;
        if row > 0 && k.len() == v.len() && k.len().is_multiple_of(row) {
            return Ok(());
        }
        let rows = format!("K of {} and V of {} elements are no rows of KV heads {heads:?}", k.len(), v.len());
        Err(Error::usage(format!("{}: {rows}, {} elements each", name(sequence), self.head_dim)))
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
        Ok(HeadView::new(self.head(layer, sequence, kv_head)?, self.head_dim))
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
        0..self.layers
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
        match layers.start < layers.end && layers.end <= self.layers {
            true => Ok(layers.start * self.kv_heads..layers.end * self.kv_heads),
            false => Err(Error::usage(format!("{}: layers {layers:?} of {}", name(sequence), self.layers))),
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
        entry.heads[heads].iter_mut().for_each(|head| head.truncate(length));
        Ok(())
    }

    /// Bytes of all blocks, shared ones counted once; tables of blocks (8 bytes a block) are left out.
    pub fn bytes(&self) -> usize {
        self.meter.bytes()
    }

    /// Checks the cache's own rules in time linear in its blocks: for tests.
    ///
    /// # Errors
    /// [`Error::Internal`] with the broken rule.
    pub fn validate(&self) -> Result<()> {
        let rule = |holds: bool, rule: &'static str| if holds { Ok(()) } else { Err(Error::Internal(rule)) };
        let heads = || self.sequences.values().flat_map(|s| &s.heads);
        let shape = self.sequences.values().all(|s| s.heads.len() == self.layers * self.kv_heads);
        rule(shape, "a sequence has one head per layer and KV head")?;
        rule(heads().all(|h| h.is_sound(self.head_dim)), "a head has the blocks that its length takes")?;
        rule(self.sequences.keys().all(|id| id.0 < self.next), "a sequence id is used once")?;
        rule(self.bytes() == distinct_bytes(heads()), "the meter counts every block once")
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
        if at < self.layers && kv_head < self.kv_heads {
            return Ok(at * self.kv_heads + kv_head);
        }
        let rule = format!("the cache has {} layers x {} KV heads", self.layers, self.kv_heads);
        Err(Error::usage(format!("{}: layer {at}, KV head {kv_head} asked for, but {rule}", name(sequence))))
    }
}

fn distinct_bytes<'a>(heads: impl Iterator<Item = &'a Head>) -> usize {
    let mut seen = BTreeSet::new();
    heads.flat_map(Head::blocks).filter(|b| seen.insert(Arc::as_ptr(b))).map(|b| b.bytes()).sum()
}

fn name(sequence: SequenceId) -> String {
    format!("sequence {}", sequence.0)
}

fn unknown(sequence: SequenceId) -> Error {
    Error::usage(format!("{} is not in this KV cache: it was freed or never created", name(sequence)))
}
