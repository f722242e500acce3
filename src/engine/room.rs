//! Where the blocks of a model lie: those of every recipe that it is opened for, and how a cache is cut for them. From
//! layout arithmetic alone.

use super::schedule::Schedule;
use super::walk::Walk;
use super::widest::{Widest, block_bytes};
use crate::config::{Architecture, Recipe};
use crate::error::{Error, Result};
use crate::prefetch::Layout;
use crate::store::{Catalog, SectionId, SectionLayout};
use crate::tier::{Block, BlockId, FRAME, paged};
use crate::types::CHUNK;
use std::collections::BTreeMap;

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

/// Blocks that recipes share.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Every block of the sections that any of them reads.
    pub blocks: Vec<Block>,
    /// Section of every block.
    owners: Vec<SectionId>,
    /// First block of every section that has blocks.
    first: BTreeMap<SectionId, u32>,
    widest: Widest,
}

impl Room {
    /// For some recipes.
    ///
    /// # Errors
    /// As [`Schedule::new`]; `Error::Usage` for a model of more blocks than can be kept in mind.
    pub fn new<'a>(
        arch: &Architecture,
        catalog: &Catalog,
        recipes: impl IntoIterator<Item = &'a Recipe>,
    ) -> Result<Room> {
        let (mut room, mut ranks) = (Room::default(), BTreeMap::new());
        for recipe in recipes {
            let schedule = Schedule::new(arch, catalog, recipe)?;
            room.widest = room.widest.max(schedule.widest);
            for (walk, rank) in schedule.ranked() {
                room.add(catalog, walk)?;
                for id in &walk.sections {
                    ranks.entry(*id).and_modify(|have: &mut u8| *have = rank.min(*have)).or_insert(rank);
                }
            }
        }
        // Blocks are kept by how often they are read.
        for (block, owner) in room.blocks.iter_mut().zip(&room.owners) {
            block.position += f32::from(ranks.get(owner).copied().unwrap_or(0));
        }
        Ok(room)
    }

    fn add(&mut self, catalog: &Catalog, walk: &Walk) -> Result<()> {
        if self.blocks.len() + walk.sections.len() * walk.chunks() > MOST_BLOCKS {
            return Err(Error::usage(format!("the model has more than {MOST_BLOCKS} blocks of {CHUNK} records")));
        }
        walk.sections.iter().for_each(|id| self.add_blocks(*id, catalog.section(*id)));
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

    /// Whether a recipe needs no more than those that it was made for.
    ///
    /// # Errors
    /// `Error::Usage` naming what is missing.
    pub fn check(&self, catalog: &Catalog, schedule: &Schedule) -> Result<()> {
        let missing = |id: &&SectionId| !self.first.contains_key(id);
        let section = schedule.walks().iter().flat_map(|walk| &walk.sections).find(missing);
        let section = section.map(|id| format!("section {}", catalog.section(*id).name));
        match section.or_else(|| self.widest.lacks(schedule.widest)) {
            None => Ok(()),
            Some(what) => Err(Error::usage(format!(
                "the model is not open for this recipe, which needs {what}: name it when the model is opened (serves)"
            ))),
        }
    }

    /// The block that holds chunk `chunk` of a section, if the section has blocks.
    pub fn block(&self, section: SectionId, chunk: usize) -> Option<BlockId> {
        self.first.get(&section).map(|first| BlockId(first + chunk as u32))
    }

    /// The blocks of a schedule's walks.
    pub fn blocks_of(&self, schedule: &Schedule) -> Vec<BlockId> {
        let of = |walk: &Walk| -> Vec<BlockId> {
            let sections = walk.sections.iter();
            sections.flat_map(|id| (0..walk.chunks()).filter_map(|chunk| self.block(*id, chunk))).collect()
        };
        schedule.walks().iter().flat_map(|walk| of(walk)).collect()
    }

    /// Section of every block.
    pub fn block_sections(&self) -> &[SectionId] {
        &self.owners
    }

    /// Slots for [`EMBEDDINGS`] embeddings.
    pub fn embeddings(&self) -> Vec<usize> {
        vec![self.widest.row; self.widest.planes * EMBEDDINGS]
    }

    fn fixed_bytes(&self) -> u64 {
        self.blocks.iter().map(|b| paged(b.bytes)).sum()
    }

    fn row_slots(&self) -> u64 {
        self.embeddings().iter().map(|n| paged(*n)).sum()
    }

    /// The least cache: the largest step in each ring, and embeddings.
    pub fn least(&self) -> u64 {
        self.least_rings().iter().sum::<u64>() + self.row_slots()
    }

    fn least_rings(&self) -> [u64; 2] {
        [u64::from(self.widest.step) * FRAME as u64, u64::from(self.widest.chosen) * Layout::PAGE as u64]
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Ffn;
    use crate::engine::schedule::tests::{architecture, bundled, dense, encoding, recipes};
    use proptest::prelude::*;

    fn some() -> impl Strategy<Value = Vec<Recipe>> {
        prop::collection::vec(recipes(), 1..4)
    }

    fn is_dense(recipe: &Recipe) -> bool {
        matches!(recipe.ffn, Ffn::Dense(_)) && recipe.query_heads.is_none()
    }

    proptest! {
        #[test]
        fn every_section_has_its_blocks_once_whichever_walks_and_recipes_share_it(
            layers in 1usize..4, hidden in 1usize..300, ffn in 20usize..900, vocab in 1usize..900, tied in any::<bool>(),
            recipes in some(), bundled in any::<bool>(),
        ) {
            let arch = architecture(layers, hidden, ffn, vocab, tied);
            let catalog = Catalog::new(&arch, &if bundled { self::bundled() } else { encoding() });
            let room = Room::new(&arch, &catalog, &recipes).unwrap();
            let mut seen = vec![false; room.blocks.len()];
            for recipe in &recipes {
                let schedule = Schedule::new(&arch, &catalog, recipe).unwrap();
                let steps = schedule.walks().iter().flat_map(|walk| (0..walk.chunks()).map(move |chunk| (walk, chunk)));
                prop_assert_eq!(steps.clone().count(), schedule.steps());
                for (walk, chunk) in steps {
                    for id in &walk.sections {
                        let block = room.block(*id, chunk).unwrap();
                        seen[block.0 as usize] = true;
                        prop_assert_eq!(room.block_sections()[block.0 as usize], *id);
                        prop_assert_eq!(room.blocks[block.0 as usize].bytes, block_bytes(catalog.section(*id), chunk));
                    }
                }
            }
            prop_assert!(seen.into_iter().all(|s| s));
            let mut owners = room.block_sections().to_vec();
            owners.dedup();
            let sections = owners.len();
            owners.sort_unstable();
            owners.dedup();
            prop_assert_eq!(owners.len(), sections, "blocks of a section lie together");
        }

        #[test]
        fn a_recipe_has_room_where_it_adds_nothing(
            hidden in 1usize..300, ffn in 20usize..900, open in some(), other in recipes(), bundled in any::<bool>(),
        ) {
            let arch = architecture(2, hidden, ffn, 300, false);
            let catalog = Catalog::new(&arch, &if bundled { self::bundled() } else { encoding() });
            let check = |room: &Room, recipe| room.check(&catalog, &Schedule::new(&arch, &catalog, recipe).unwrap());
            let room = Room::new(&arch, &catalog, &open).unwrap();
            for recipe in &open {
                check(&room, recipe).unwrap();
            }
            let both = Room::new(&arch, &catalog, open.iter().chain([&other])).unwrap();
            let adds = both.all() > room.all() || both.widest != room.widest;
            match check(&room, &other) {
                Ok(()) => prop_assert!(!adds),
                Err(Error::Usage(told)) => prop_assert!(adds && told.contains("serves"), "{}", told),
                Err(e) => panic!("{e}"),
            }
        }

        #[test]
        fn a_split_spends_no_more_than_it_was_given(
            ffn in 20usize..2000, extra in 0u64..4_000_000, ring in prop::option::of(0u64..8_000_000), recipes in some(),
        ) {
            let (arch, encoding) = (architecture(2, 128, ffn, 300, false), encoding());
            let room = Room::new(&arch, &Catalog::new(&arch, &encoding), &recipes).unwrap();
            let least = room.least();
            let split = room.split(least + extra, ring).unwrap();
            let rings = u64::from(split.ring) * FRAME as u64 + u64::from(split.chosen) * Layout::PAGE as u64;
            prop_assert_eq!(rings + split.fixed + room.row_slots(), least + extra);
            prop_assert!(split.ring >= room.widest.step && split.chosen >= room.widest.chosen, "the largest steps fit");
            prop_assert_eq!(split.chosen == 0, recipes.iter().all(is_dense));
            let refused = room.split(least - 1, ring).unwrap_err();
            let named = matches!(refused, Error::CacheTooSmall { given, least: n } if given == least - 1 && n == least);
            prop_assert!(named);
        }
    }

    #[test]
    fn a_cache_that_holds_all_has_room_for_all() {
        let (arch, encoding) = (architecture(3, 256, 700, 1000, true), encoding());
        let catalog = Catalog::new(&arch, &encoding);
        for bits in [4, 8, 16] {
            let room = Room::new(&arch, &catalog, [&dense(bits)]).unwrap();
            let split = room.split(room.all(), None).unwrap();
            let dram = crate::tier::Dram::place(&room.blocks, split.fixed);
            assert_eq!(dram.slots().len(), room.blocks.len());
        }
    }
}
