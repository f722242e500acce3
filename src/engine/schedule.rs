//! The order in which a dense model asks for its blocks, and what that takes: from layout arithmetic alone.

use super::walk::{WALKS, Walk, WalkId};
use crate::config::{Architecture, Encoding};
use crate::error::{Error, Result};
use crate::io::ALIGN;
use crate::prefetch::Layout;
use crate::store::{Catalog, SectionId, SectionLayout};
use crate::tier::{Block, BlockId, FRAME, frames, paged};
use crate::types::{CHUNK, Levels, Matrix};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of the ring where the budget has room for them: what a disk of 3 GB/s reads in 11 ms. A whole layer is
/// computed in 5 ms (7B, 4 bits, two cores), so the disk does not run dry; twice as much read no faster and left 32 MiB
/// less for fixed blocks.
pub const RING_BYTES: usize = 32 << 20;
/// Blocks of a model at most; beyond any model there is, and some 500 MB of bookkeeping.
const MOST_BLOCKS: usize = 1 << 24;
/// Embeddings that are read together: as many as reader threads, which wait once for all of them. The smallest cache
/// pays two pages or three for each and plane.
pub const EMBEDDINGS: usize = 16;
/// The ring takes at most this share of a cache; the rest serves better as fixed blocks.
const RING_SHARE: u64 = 8;

/// Steps of a pass and the blocks they read. A step is one lease of the engine: a chunk of a walk, in all its sections.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Those of each layer, then the head's.
    walks: Vec<Arc<Walk>>,
    /// The embedding, whose records are read one by one: it has no steps.
    pub embedding: Arc<Walk>,
    /// Every block of the walks' sections.
    pub blocks: Vec<Block>,
    /// First block of every section that has blocks.
    first: BTreeMap<SectionId, u32>,
    /// Frames of the largest step.
    widest: u32,
    /// Slots for [`EMBEDDINGS`] embeddings, one after the other: their strides, with room for the pages around them.
    pub embeddings: Vec<usize>,
}

/// What a model needs at some levels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Needs {
    /// Bytes of cache that hold every weight.
    pub all: u64,
    /// The least cache that works: one step.
    pub least: u64,
    /// What the ring takes of a cache that does not hold all, where it has room for it.
    pub ring: u64,
    /// Bytes of weights that one decoded token touches.
    pub token_bytes: u64,
    /// Blocks that are cached.
    pub blocks: usize,
    /// `token_bytes` by part.
    pub parts: BTreeMap<&'static str, u64>,
}

/// How a cache is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Frames of the ring.
    pub ring: u32,
    /// Bytes for fixed blocks.
    pub fixed: u64,
}

/// Bytes that the ring takes of a cache of `bytes`, if its largest step does not need more; `all` hold every weight.
pub fn usual_ring(bytes: u64, all: u64) -> u64 {
    // Once everything is loaded the ring is of no use, so it takes nothing from a cache that holds all.
    if bytes >= all { 0 } else { (bytes / RING_SHARE).min(RING_BYTES as u64) }
}

impl Schedule {
    /// Of a model at some levels.
    ///
    /// # Errors
    /// `Error::Usage` when a level's plane is not stored.
    pub fn new(arch: &Architecture, catalog: &Catalog, levels: Levels) -> Result<Schedule> {
        let embedding = Walk::new(catalog, None, &[Matrix::Embed], levels.embed)?;
        let slot = |id: &SectionId| (catalog.section(*id).stride + ALIGN).next_multiple_of(ALIGN);
        let embeddings = embedding.sections.iter().map(slot).collect::<Vec<_>>().repeat(EMBEDDINGS);
        let embedding = Arc::new(embedding);
        let mut schedule =
            Schedule { walks: vec![], embedding, blocks: vec![], first: BTreeMap::new(), widest: 0, embeddings };
        for layer in 0..arch.layers {
            for matrix in [Matrix::Q, Matrix::K, Matrix::V, Matrix::O] {
                schedule.add(catalog, Walk::new(catalog, Some(layer), &[matrix], levels.attn)?)?;
            }
            schedule.add(catalog, Walk::new(catalog, Some(layer), arch.ffn_matrices(), levels.ffn)?)?;
        }
        schedule.add(catalog, Walk::new(catalog, None, &[arch.head_matrix()], levels.head)?)?;
        Ok(schedule)
    }

    fn add(&mut self, catalog: &Catalog, mut walk: Walk) -> Result<()> {
        walk.first = self.steps();
        if self.blocks.len() + walk.sections.len() * walk.chunks() > MOST_BLOCKS {
            return Err(Error::usage(format!("the model has more than {MOST_BLOCKS} blocks of {CHUNK} records")));
        }
        let (chunks, mut width) = (walk.chunks(), 0);
        for id in &walk.sections {
            let layout = catalog.section(*id);
            width += frames(block_bytes(layout, 0));
            self.first.insert(*id, self.blocks.len() as u32);
            let position = |i: usize| (i as f32 + 0.5) / chunks as f32;
            self.blocks.extend((0..chunks).map(|i| Block { bytes: block_bytes(layout, i), position: position(i) }));
        }
        self.widest = self.widest.max(width);
        self.walks.push(Arc::new(walk));
        Ok(())
    }

    /// All walks, in the order of their steps.
    pub fn walks(&self) -> &[Arc<Walk>] {
        &self.walks
    }

    /// A walk.
    ///
    /// # Errors
    /// `Error::Internal` for a number that is of no walk.
    pub fn walk(&self, id: WalkId) -> Result<&Arc<Walk>> {
        self.walks.get(id.0).ok_or(Error::Internal("a walk that the model does not have"))
    }

    /// Steps of a pass.
    pub fn steps(&self) -> usize {
        self.walks.last().map_or(0, |walk| walk.steps().end)
    }

    /// Steps of a range of layers.
    pub fn layers(&self, layers: Range<usize>) -> Range<usize> {
        let first = |layer: usize| self.walks.get(layer * WALKS).map_or(self.steps(), |walk| walk.first);
        first(layers.start)..first(layers.end).max(first(layers.start))
    }

    /// The head's walk.
    pub fn head(&self) -> WalkId {
        WalkId(self.walks.len() - 1)
    }

    /// The block that holds chunk `chunk` of a section, if the section has blocks.
    pub fn block(&self, section: SectionId, chunk: usize) -> Option<BlockId> {
        self.first.get(&section).map(|first| BlockId(first + chunk as u32))
    }

    /// Section of every block.
    pub fn block_sections(&self) -> Vec<SectionId> {
        let of = |walk: &Arc<Walk>| {
            let chunks = walk.chunks();
            walk.sections.clone().into_iter().flat_map(move |id| std::iter::repeat_n(id, chunks))
        };
        self.walks.iter().flat_map(of).collect()
    }

    fn fixed_bytes(&self) -> u64 {
        self.blocks.iter().map(|b| paged(b.bytes)).sum()
    }

    fn row_slots(&self) -> u64 {
        self.embeddings.iter().map(|n| paged(*n)).sum()
    }

    /// The least cache: the largest step in the ring, and embeddings.
    pub fn least(&self) -> u64 {
        u64::from(self.widest) * FRAME as u64 + self.row_slots()
    }

    /// Cuts a cache of `bytes` into ring and fixed blocks; `ring` asks for ring bytes, none takes the usual.
    ///
    /// # Errors
    /// `Error::CacheTooSmall` naming the least.
    pub fn split(&self, bytes: u64, ring: Option<u64>) -> Result<Split> {
        let least = self.least();
        let spare = bytes.checked_sub(least).ok_or(Error::CacheTooSmall { given: bytes, least })?;
        let usual = usual_ring(bytes, least + self.fixed_bytes());
        let wanted = (ring.unwrap_or(usual) / FRAME as u64).min((Layout::MOST / FRAME) as u64) as u32;
        let most = self.widest + (spare / FRAME as u64) as u32;
        let frames = wanted.clamp(self.widest, most);
        Ok(Split { ring: frames, fixed: spare - u64::from(frames - self.widest) * FRAME as u64 })
    }

    /// What the model needs.
    pub fn needs(&self, catalog: &Catalog) -> Needs {
        let row = self.embedding.sections.iter().map(|id| catalog.section(*id).stride as u64).sum();
        let mut parts = BTreeMap::from([("embed", row)]);
        for walk in &self.walks {
            let bytes: u64 = walk.sections.iter().map(|id| catalog.section(*id).bytes()).sum();
            *parts.entry(walk.part).or_default() += bytes;
        }
        Needs {
            all: self.least() + self.fixed_bytes(),
            least: self.least(),
            ring: (RING_BYTES as u64).max(self.least()),
            token_bytes: parts.values().sum(),
            blocks: self.blocks.len(),
            parts,
        }
    }
}

impl Needs {
    /// Of a model that need not be stored anywhere.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn of(arch: &Architecture, encoding: &Encoding, levels: Levels) -> Result<Needs> {
        let catalog = Catalog::new(arch, encoding);
        Ok(Schedule::new(arch, &catalog, levels)?.needs(&catalog))
    }
}

/// Bytes of a section's block.
pub fn block_bytes(layout: &SectionLayout, chunk: usize) -> usize {
    layout.stride * CHUNK.min(layout.records - chunk * CHUNK)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use super::*;
    use crate::config::{Coding, Form};
    use crate::types::{Level, Plane};
    use proptest::prelude::*;
    use serde_json::json;

    pub fn architecture(layers: usize, hidden: usize, ffn: usize, vocab: usize, tied: bool) -> Architecture {
        serde_json::from_value(json!({
            "family": "llama", "layers": layers, "hidden": hidden, "ffn": ffn, "heads": 4, "kv_heads": 2, "head_dim": 64,
            "vocab": vocab, "context": 64, "norm_eps": 1e-5, "activation": "silu", "gated": true, "tied": tied,
            "biases": [], "attention_scale": 0.125, "rope_layout": "half", "rope": {"type": "default", "theta": 1e4}
        }))
        .unwrap()
    }

    pub fn encoding() -> Encoding {
        let of = |matrices: &[Matrix], plane| matrices.iter().map(|m| (*m, plane)).collect::<Vec<_>>();
        let all = [Matrix::Gate, Matrix::Up, Matrix::Down];
        let split = Plane::ALL.map(|plane| [of(&all[..2], plane), of(&all[2..], plane)]);
        let coding = Coding { form: Form::Affine, group: 64, cells: [1, 1, 1] };
        Encoding { coding, planes: 3, ffn_sections: split.concat() }
    }

    pub fn levels(bits: u32) -> Levels {
        let level = Level::from_bits(bits).unwrap();
        Levels { attn: level, ffn: level, head: level, embed: level }
    }

    proptest! {
        #[test]
        fn every_stored_byte_of_a_level_has_its_step_and_its_block(layers in 1usize..4, hidden in 1usize..300, ffn in 1usize..900,
                                                                   vocab in 1usize..900, tied in any::<bool>(), bits in prop::sample::select(vec![4, 8, 16])) {
            let (arch, encoding) = (architecture(layers, hidden, ffn, vocab, tied), encoding());
            let catalog = Catalog::new(&arch, &encoding);
            let schedule = Schedule::new(&arch, &catalog, levels(bits)).unwrap();
            let needs = schedule.needs(&catalog);
            let mut seen = vec![false; schedule.blocks.len()];
            let mut bytes = 0;
            let steps = schedule.walks().iter().flat_map(|walk| (0..walk.chunks()).map(move |chunk| (walk, chunk)));
            prop_assert_eq!(steps.clone().count(), schedule.steps());
            for (walk, chunk) in steps {
                for id in &walk.sections {
                    let block = schedule.block(*id, chunk).unwrap();
                    prop_assert!(!std::mem::replace(&mut seen[block.0 as usize], true));
                    prop_assert_eq!(schedule.block_sections()[block.0 as usize], *id);
                    let size = block_bytes(catalog.section(*id), chunk);
                    prop_assert_eq!(schedule.blocks[block.0 as usize].bytes, size);
                    bytes += size as u64;
                }
            }
            prop_assert!(seen.into_iter().all(|s| s));
            prop_assert_eq!(needs.token_bytes, bytes + needs.parts["embed"]);
            let walk = |layer, matrix| schedule.walk(WalkId::of(layer, matrix).unwrap()).unwrap();
            prop_assert_eq!(schedule.layers(0..layers).end, schedule.walk(schedule.head()).unwrap().steps().start);
            for layer in 0..layers {
                let range = schedule.layers(layer..layer + 1);
                prop_assert_eq!(walk(layer, Matrix::Q).steps().start, range.start);
                prop_assert_eq!(walk(layer, Matrix::Down).steps().end, range.end);
                for matrix in [Matrix::Q, Matrix::K, Matrix::V, Matrix::O, Matrix::Gate, Matrix::Up, Matrix::Down] {
                    prop_assert_eq!(walk(layer, matrix).planes(matrix).unwrap().len(), levels(bits).attn.plane_count());
                }
            }
        }

        #[test]
        fn a_split_spends_no_more_than_it_was_given(ffn in 1usize..2000, extra in 0u64..4_000_000, ring in prop::option::of(0u64..8_000_000)) {
            let (arch, encoding) = (architecture(2, 128, ffn, 300, false), encoding());
            let catalog = Catalog::new(&arch, &encoding);
            let schedule = Schedule::new(&arch, &catalog, levels(16)).unwrap();
            let least = schedule.least();
            let split = schedule.split(least + extra, ring).unwrap();
            let spent = u64::from(split.ring) * FRAME as u64 + split.fixed + schedule.row_slots();
            prop_assert!(spent <= least + extra);
            prop_assert!(split.ring >= schedule.widest, "the largest step fits");
            let refused = schedule.split(least - 1, ring).unwrap_err();
            let named = matches!(refused, Error::CacheTooSmall { given, least: n } if given == least - 1 && n == least);
            prop_assert!(named);
        }
    }

    #[test]
    fn a_cache_that_holds_all_has_room_for_all() {
        let (arch, encoding) = (architecture(3, 256, 700, 1000, true), encoding());
        let catalog = Catalog::new(&arch, &encoding);
        for bits in [4, 8, 16] {
            let schedule = Schedule::new(&arch, &catalog, levels(bits)).unwrap();
            let split = schedule.split(schedule.needs(&catalog).all, None).unwrap();
            let dram = crate::tier::Dram::place(&schedule.blocks, split.fixed);
            assert_eq!(dram.slots().len(), schedule.blocks.len());
        }
    }
}
