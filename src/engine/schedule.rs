//! The order in which a model asks for its blocks, and what that takes: from layout arithmetic alone.

use super::parts;
use super::walk::{Part, Walk, WalkId};
use crate::config::{Architecture, Recipe};
use crate::error::{Error, Result};
use crate::io::ALIGN;
use crate::prefetch::Layout;
use crate::store::{Catalog, SectionId, SectionLayout};
use crate::tier::{Block, BlockId, FRAME, frames, paged};
use crate::types::{CHUNK, Kind, Level, Matrix};
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
    /// What is walked through in every layer.
    parts: Vec<Part>,
    /// Those of each layer, in the order of its parts; then the head's.
    walks: Vec<Arc<Walk>>,
    /// The embedding, whose records are read one by one: it has no steps.
    pub embedding: Arc<Walk>,
    /// Every block of the walks' sections, which walks may share.
    pub blocks: Vec<Block>,
    /// Section of every block.
    owners: Vec<SectionId>,
    /// First block of every section that has blocks.
    first: BTreeMap<SectionId, u32>,
    /// Frames of the largest step.
    widest: u32,
    /// Pages of the largest step that is chosen while a token is computed.
    widest_chosen: u32,
    /// Slots for [`EMBEDDINGS`] embeddings, one after the other: their strides, with room for the pages around them.
    pub embeddings: Vec<usize>,
}

/// How a cache is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Frames of the ring of scheduled steps.
    pub ring: u32,
    /// Pages of the ring of chosen steps.
    pub chosen: u32,
    /// Bytes for fixed blocks.
    pub fixed: u64,
}

/// Bytes that the ring takes of a cache of `bytes`, if its largest step does not need more; `all` hold every weight.
pub fn usual_ring(bytes: u64, all: u64) -> u64 {
    // Once everything is loaded the ring is of no use, so it takes nothing from a cache that holds all.
    if bytes >= all { 0 } else { (bytes / RING_SHARE).min(RING_BYTES as u64) }
}

impl Schedule {
    /// Of a model under a recipe.
    ///
    /// # Errors
    /// `Error::Usage` when a level's plane is not stored.
    pub fn new(arch: &Architecture, catalog: &Catalog, recipe: &Recipe) -> Result<Schedule> {
        let embedding = Walk::new(catalog, None, &[(Matrix::Embed, recipe.embed)])?;
        let slot = |id: &SectionId| (catalog.section(*id).stride + ALIGN).next_multiple_of(ALIGN);
        let embeddings = embedding.sections.iter().map(slot).collect::<Vec<_>>().repeat(EMBEDDINGS);
        let embedding = Arc::new(embedding);
        let mut schedule = Schedule {
            parts: vec![],
            walks: vec![],
            embedding,
            blocks: vec![],
            owners: vec![],
            first: BTreeMap::new(),
            widest: 0,
            widest_chosen: 0,
            embeddings,
        };
        for layer in 0..arch.layers {
            let (parts, reads): (Vec<_>, Vec<_>) = parts::of_layer(arch, recipe, layer).into_iter().unzip();
            for matrices in reads {
                schedule.add(catalog, Walk::new(catalog, Some(layer), &matrices)?)?;
            }
            schedule.parts = parts;
        }
        schedule.add(catalog, Walk::new(catalog, None, &[(arch.head_matrix(), recipe.head)])?)?;
        schedule.rank(catalog, recipe);
        Ok(schedule)
    }

    /// Blocks are kept by how often they are read: by every decoded token, by those that choose them, by prompts alone.
    fn rank(&mut self, catalog: &Catalog, recipe: &Recipe) {
        let [prompt, decode] = [Kind::Prompt, Kind::Decode].map(|kind| parts::taken(recipe, kind));
        let mut ranks: BTreeMap<SectionId, u8> = BTreeMap::new();
        for (at, walk) in self.walks[..self.walks.len() - 1].iter().enumerate() {
            let part = self.parts[at % self.parts.len()];
            let alone = prompt.contains(&part) && !parts::is_chosen(recipe, part);
            let rank = if decode.contains(&part) { 0 } else { 1 + u8::from(alone) };
            if rank == 1 {
                let pages = |id: &SectionId| (paged(block_bytes(catalog.section(*id), 0)) / Layout::PAGE as u64) as u32;
                self.widest_chosen = self.widest_chosen.max(walk.sections.iter().map(pages).sum());
            }
            for id in &walk.sections {
                ranks.entry(*id).and_modify(|have| *have = rank.min(*have)).or_insert(rank);
            }
        }
        for (block, owner) in self.blocks.iter_mut().zip(&self.owners) {
            block.position += f32::from(ranks.get(owner).copied().unwrap_or(0));
        }
    }

    fn add(&mut self, catalog: &Catalog, mut walk: Walk) -> Result<()> {
        walk.first = self.steps();
        if self.blocks.len() + walk.sections.len() * walk.chunks() > MOST_BLOCKS {
            return Err(Error::usage(format!("the model has more than {MOST_BLOCKS} blocks of {CHUNK} records")));
        }
        for id in &walk.sections {
            self.add_blocks(*id, catalog.section(*id));
        }
        let width = walk.sections.iter().map(|id| frames(block_bytes(catalog.section(*id), 0))).sum();
        self.widest = self.widest.max(width);
        self.walks.push(Arc::new(walk));
        Ok(())
    }

    /// Adds the blocks of a section, if no walk before had them.
    fn add_blocks(&mut self, id: SectionId, layout: &SectionLayout) {
        if self.first.contains_key(&id) {
            return;
        }
        let chunks = layout.records.div_ceil(CHUNK);
        self.first.insert(id, self.blocks.len() as u32);
        self.owners.extend(std::iter::repeat_n(id, chunks));
        let position = |i: usize| (i as f32 + 0.5) / chunks as f32;
        self.blocks.extend((0..chunks).map(|i| Block { bytes: block_bytes(layout, i), position: position(i) }));
    }

    /// All walks, in the order of their steps.
    pub fn walks(&self) -> &[Arc<Walk>] {
        &self.walks
    }

    /// A walk.
    ///
    /// # Errors
    /// `Error::Internal` for a layer or a part that there is not.
    pub fn walk(&self, id: WalkId) -> Result<&Arc<Walk>> {
        let found = match id {
            WalkId::Head => self.walks.last(),
            WalkId::Layer(layer, _) if layer >= self.layers() => None,
            WalkId::Layer(layer, part) => {
                let at = self.parts.iter().position(|have| *have == part);
                at.and_then(|at| self.walks.get(layer * self.parts.len() + at))
            }
        };
        found.ok_or(Error::Internal("a walk that the model does not have"))
    }

    /// The walk of a layer that has some of its matrices at a level, or above: that of the fewest sections.
    pub fn reads(&self, layer: usize, matrices: &[Matrix], level: Level) -> Option<WalkId> {
        let has =
            |walk: &Walk| matrices.iter().all(|of| walk.planes(*of).is_ok_and(|at| at.len() >= level.plane_count()));
        let walks = self.parts.iter().filter_map(|part| Some((*part, self.walk(WalkId::Layer(layer, *part)).ok()?)));
        let least = walks.filter(|(_, walk)| has(walk)).min_by_key(|(_, walk)| walk.sections.len());
        least.map(|(part, _)| WalkId::Layer(layer, part))
    }

    fn layers(&self) -> usize {
        (self.walks.len() - 1) / self.parts.len().max(1)
    }

    /// Steps of a pass.
    pub fn steps(&self) -> usize {
        self.walks.last().map_or(0, |walk| walk.steps().end)
    }

    /// Steps of some parts of a range of layers, walk by walk.
    ///
    /// # Errors
    /// As [`Schedule::walk`].
    pub fn steps_of(&self, layers: Range<usize>, parts: &[Part]) -> Result<Vec<Range<usize>>> {
        let walks = layers.flat_map(|layer| parts.iter().map(move |part| WalkId::Layer(layer, *part)));
        walks.map(|walk| Ok(self.walk(walk)?.steps())).collect()
    }

    /// The block that holds chunk `chunk` of a section, if the section has blocks.
    pub fn block(&self, section: SectionId, chunk: usize) -> Option<BlockId> {
        self.first.get(&section).map(|first| BlockId(first + chunk as u32))
    }

    /// Section of every block.
    pub fn block_sections(&self) -> &[SectionId] {
        &self.owners
    }

    fn fixed_bytes(&self) -> u64 {
        self.blocks.iter().map(|b| paged(b.bytes)).sum()
    }

    fn row_slots(&self) -> u64 {
        self.embeddings.iter().map(|n| paged(*n)).sum()
    }

    /// The least cache: the largest step in each ring, and embeddings.
    pub fn least(&self) -> u64 {
        self.least_rings().iter().sum::<u64>() + self.row_slots()
    }

    fn least_rings(&self) -> [u64; 2] {
        [u64::from(self.widest) * FRAME as u64, u64::from(self.widest_chosen) * Layout::PAGE as u64]
    }

    /// The cache that holds every weight.
    pub fn all(&self) -> u64 {
        self.least() + self.fixed_bytes()
    }

    /// Cuts a cache of `bytes` into rings and fixed blocks; `ring` asks for ring bytes, none takes the usual. Where steps
    /// are chosen each way gets half: 16 MiB hold three chunks of 7B at 16 bits, which is more reads than are in flight,
    /// and scheduled steps need only bridge the time in which chosen ones are waited for.
    ///
    /// # Errors
    /// `Error::CacheTooSmall` naming the least.
    pub fn split(&self, bytes: u64, ring: Option<u64>) -> Result<Split> {
        let least = self.least();
        let spare = bytes.checked_sub(least).ok_or(Error::CacheTooSmall { given: bytes, least })?;
        let usual = usual_ring(bytes, self.all());
        let wanted = ring.unwrap_or(usual).min(Layout::MOST as u64);
        let [scheduled, chosen] = self.least_rings();
        let wanted = if chosen > 0 { wanted / 2 } else { wanted };
        let more = |least: u64, spare: u64, unit: u64| wanted.saturating_sub(least).min(spare) / unit * unit;
        let scheduled = scheduled + more(scheduled, spare, FRAME as u64);
        let spare = least + spare - self.row_slots() - scheduled;
        let chosen = if chosen > 0 { chosen + more(chosen, spare - chosen, Layout::PAGE as u64) } else { 0 };
        let (ring, pages) = (scheduled / FRAME as u64, chosen / Layout::PAGE as u64);
        Ok(Split { ring: ring as u32, chosen: pages as u32, fixed: spare - chosen })
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
    use crate::config::{Coding, Cut, Encoding, Ffn, Form, Selector, Sparse, TopHeads};
    use crate::engine::Needs;
    use crate::types::{LEVELS, Plane};
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

    /// All matrices of a plane together.
    fn bundled() -> Encoding {
        let of = |plane| [Matrix::Gate, Matrix::Up, Matrix::Down].map(|m| (m, plane)).to_vec();
        Encoding { ffn_sections: Plane::ALL.map(of).to_vec(), ..encoding() }
    }

    pub fn dense(bits: u32) -> Recipe {
        let level = Level::from_bits(bits).unwrap();
        Recipe { attn: level, head: level, embed: level, prompt: level, ffn: Ffn::Dense(level), heads: None }
    }

    /// Recipes whose layers differ in what they read.
    fn recipes() -> impl Strategy<Value = Recipe> {
        let level = || prop::sample::select(LEVELS.to_vec());
        let cut = prop::sample::select(vec![[9, 0, 0], [0, 9, 0], [0, 0, 9], [1, 2, 3], [1, 0, 2]]).prop_map(Cut::Top);
        let selector = prop::sample::select(vec![
            Selector::Plane,
            Selector::Lowrank,
            Selector::Oracle,
            Selector::Cascade(vec![20]),
        ]);
        let sparse = (selector, prop::collection::vec(cut, 1))
            .prop_map(|(selector, cuts)| Ffn::Sparse(Sparse { selector, cuts }));
        let certified = prop::sample::select(vec![Level::L8, Level::L16]).prop_map(Ffn::Certified);
        let ffn = prop_oneof![level().prop_map(Ffn::Dense), certified, sparse];
        let heads = prop::option::of(Just(TopHeads { top: vec![1] }));
        (level(), level(), ffn, heads).prop_map(|(attn, prompt, ffn, heads)| Recipe {
            attn,
            head: attn,
            embed: prompt,
            prompt,
            ffn,
            heads,
        })
    }

    proptest! {
        #[test]
        fn every_section_has_its_blocks_once_whichever_walks_share_it(
            layers in 1usize..4, hidden in 1usize..300, ffn in 20usize..900, vocab in 1usize..900, tied in any::<bool>(),
            recipe in recipes(), bundled in any::<bool>(),
        ) {
            let arch = architecture(layers, hidden, ffn, vocab, tied);
            let catalog = Catalog::new(&arch, &if bundled { self::bundled() } else { encoding() });
            let schedule = Schedule::new(&arch, &catalog, &recipe).unwrap();
            let mut seen = vec![false; schedule.blocks.len()];
            let steps = schedule.walks().iter().flat_map(|walk| (0..walk.chunks()).map(move |chunk| (walk, chunk)));
            prop_assert_eq!(steps.clone().count(), schedule.steps());
            for (walk, chunk) in steps {
                for id in &walk.sections {
                    let block = schedule.block(*id, chunk).unwrap();
                    seen[block.0 as usize] = true;
                    prop_assert_eq!(schedule.block_sections()[block.0 as usize], *id);
                    prop_assert_eq!(schedule.blocks[block.0 as usize].bytes, block_bytes(catalog.section(*id), chunk));
                }
            }
            prop_assert!(seen.into_iter().all(|s| s));
            let mut owners = schedule.block_sections().to_vec();
            owners.dedup();
            let sections = owners.len();
            owners.sort_unstable();
            owners.dedup();
            prop_assert_eq!(owners.len(), sections, "blocks of a section lie together");
        }

        #[test]
        fn steps_rise_in_the_order_in_which_a_token_takes_them(layers in 1usize..4, ffn in 20usize..600, recipe in recipes()) {
            let (arch, encoding) = (architecture(layers, 64, ffn, 300, false), encoding());
            let schedule = Schedule::new(&arch, &Catalog::new(&arch, &encoding), &recipe).unwrap();
            for kind in [Kind::Prompt, Kind::Decode] {
                let taken = parts::taken(&recipe, kind);
                let whole = if kind == Kind::Decode && recipe.heads.is_some() { 2 } else { 4 };
                prop_assert_eq!(taken.iter().filter(|part| matches!(part, Part::Attention(_))).count(), whole);
                let steps: Vec<usize> = schedule.steps_of(0..layers, &taken).unwrap().into_iter().flatten().collect();
                prop_assert!(steps.is_sorted_by(|a, b| a < b));
                prop_assert!(steps.last() < Some(&schedule.walk(WalkId::Head).unwrap().steps().start));
                prop_assert!(!taken.contains(&Part::Rest), "which chunks it goes to is not known before");
            }
            let rest = schedule.walk(WalkId::Layer(0, Part::Rest));
            prop_assert_eq!(rest.is_err(), matches!(recipe.ffn, Ffn::Dense(_)));
            prop_assert!(schedule.walk(WalkId::Layer(layers, Part::Ffn(recipe.prompt))).is_err(), "no such layer");
        }

        #[test]
        fn a_dense_token_touches_what_its_levels_store(layers in 1usize..4, hidden in 1usize..300, ffn in 1usize..900, bits in prop::sample::select(vec![4, 8, 16]), prompt in prop::sample::select(vec![4, 8, 16])) {
            let (arch, encoding) = (architecture(layers, hidden, ffn, 300, false), encoding());
            let (catalog, uniform) = (Catalog::new(&arch, &encoding), dense(bits));
            let planes = uniform.attn.planes();
            let sections = (0..catalog.len() as u32).map(|id| catalog.section(SectionId(id)));
            let of = |matrix: Matrix, bytes: fn(&SectionLayout) -> u64| -> u64 {
                let has = |section: &&SectionLayout| section.parts.iter().any(|(of, plane)| *of == matrix && planes.contains(plane));
                sections.clone().filter(has).map(bytes).sum()
            };
            let needs = Needs::of(&arch, &encoding, &Recipe { prompt: dense(prompt).prompt, ..uniform.clone() }).unwrap();
            let whole = |matrices: &[Matrix]| matrices.iter().map(|matrix| of(*matrix, SectionLayout::bytes)).sum::<u64>();
            // Gate and up share sections.
            prop_assert_eq!(needs.parts["ffn"], whole(&[Matrix::Up, Matrix::Down]));
            prop_assert_eq!(needs.parts["attn"], whole(&[Matrix::Q, Matrix::K, Matrix::V, Matrix::O]));
            prop_assert_eq!(needs.parts["head"], whole(&[Matrix::Head]));
            prop_assert_eq!(needs.parts["embed"], of(Matrix::Embed, |section| section.stride as u64));
            prop_assert_eq!(needs.token_bytes, needs.parts.values().sum::<u64>());
        }

        #[test]
        fn a_split_spends_no_more_than_it_was_given(ffn in 20usize..2000, extra in 0u64..4_000_000, ring in prop::option::of(0u64..8_000_000), recipe in recipes()) {
            let (arch, encoding) = (architecture(2, 128, ffn, 300, false), encoding());
            let catalog = Catalog::new(&arch, &encoding);
            let schedule = Schedule::new(&arch, &catalog, &recipe).unwrap();
            let least = schedule.least();
            let split = schedule.split(least + extra, ring).unwrap();
            let rings = u64::from(split.ring) * FRAME as u64 + u64::from(split.chosen) * Layout::PAGE as u64;
            prop_assert_eq!(rings + split.fixed + schedule.row_slots(), least + extra);
            prop_assert!(split.ring >= schedule.widest && split.chosen >= schedule.widest_chosen, "the largest steps fit");
            prop_assert_eq!(split.chosen == 0, matches!(recipe.ffn, Ffn::Dense(_)) && recipe.heads.is_none());
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
            let schedule = Schedule::new(&arch, &catalog, &dense(bits)).unwrap();
            let split = schedule.split(schedule.all(), None).unwrap();
            let dram = crate::tier::Dram::place(&schedule.blocks, split.fixed);
            assert_eq!(dram.slots().len(), schedule.blocks.len());
        }
    }
}
