//! The fixed share of the weight cache, spread evenly over the model.
//!
//! A dense model asks for every block once per token in the same order: LRU and FIFO then evict each block just before
//! it is wanted (cyclic access), while any fixed set of blocks is hit every time. So blocks are fixed until the budget is
//! spent, the same share of every section and evenly across layers; what is left goes through the read ring.

/// Slots are whole pages.
const PAGE: usize = 4096;

/// A run of records that is read and kept together, counted over the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// What placement must know of a block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Size.
    pub bytes: usize,
    /// Where in its section it lies, from 0 to 1: (index + 1/2) / blocks of the section; and a whole number more for what
    /// is read more rarely. The lowest get slots first.
    pub position: f32,
}

/// Where a block is to be found, or to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Loaded in this slot.
    Loaded(u32),
    /// Has this slot, which is still to be filled.
    Reserved(u32),
    /// Has no slot of its own and goes through the ring.
    Ring,
}

/// The placement and what is loaded so far.
#[derive(Clone, Debug)]
pub struct Dram {
    places: Vec<Place>,
    slots: Vec<usize>,
    budget: u64,
    /// Whether a block is watched, by block.
    watched: Vec<bool>,
    /// Watched blocks that are not loaded.
    missing: usize,
}

impl Dram {
    /// Places blocks under a budget in bytes, and watches all; slots are numbered from 0.
    pub fn place(blocks: &[Block], budget: u64) -> Dram {
        let places = vec![Place::Ring; blocks.len()];
        let watched = vec![true; blocks.len()];
        let mut dram = Dram { places, slots: vec![], budget, watched, missing: blocks.len() };
        let mut left = budget;
        for id in even_order(blocks) {
            let bytes = paged(blocks[id].bytes);
            if bytes <= left {
                left -= bytes;
                dram.places[id] = Place::Reserved(dram.slots.len() as u32);
                dram.slots.push(blocks[id].bytes);
            }
        }
        dram
    }

    /// Sizes of all slots.
    pub fn slots(&self) -> &[usize] {
        &self.slots
    }

    /// Where a block is.
    pub fn find(&self, block: BlockId) -> Place {
        self.places[block.0 as usize]
    }

    /// Notes that a block's reserved slot now holds it.
    pub fn loaded(&mut self, block: BlockId) {
        if let Place::Reserved(slot) = self.find(block) {
            self.places[block.0 as usize] = Place::Loaded(slot);
            self.missing -= usize::from(self.watched[block.0 as usize]);
        }
    }

    /// Says which blocks will be asked for.
    pub fn watch(&mut self, blocks: &[BlockId]) {
        self.watched.fill(false);
        blocks.iter().for_each(|block| self.watched[block.0 as usize] = true);
        let loaded = self.places.iter().map(|place| matches!(place, Place::Loaded(_)));
        self.missing = self.watched.iter().zip(loaded).filter(|(watched, loaded)| **watched && !loaded).count();
    }

    /// Whether every watched block is loaded.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Bytes of all slots, in whole pages.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|n| paged(*n)).sum()
    }

    /// Checks what must hold after every operation; for tests.
    pub fn validate(&self) -> std::result::Result<(), String> {
        let mut owned = vec![false; self.slots.len()];
        for place in &self.places {
            let (Place::Loaded(slot) | Place::Reserved(slot)) = place else { continue };
            if std::mem::replace(&mut owned[*slot as usize], true) {
                return Err(format!("slot {slot} has two blocks"));
            }
        }
        match self.bytes() > self.budget {
            true => Err(format!("{} bytes placed under a budget of {}", self.bytes(), self.budget)),
            false => Ok(()),
        }
    }
}

/// What some sizes take as slots.
pub fn paged(bytes: usize) -> u64 {
    bytes.next_multiple_of(PAGE) as u64
}

/// Blocks by their position in their section, so that any prefix takes the same share of every section and layer.
pub(super) fn even_order(blocks: &[Block]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by(|a, b| blocks[*a].position.total_cmp(&blocks[*b].position).then(a.cmp(b)));
    order
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model(layers: usize, sections: &[(usize, usize)]) -> Vec<Block> {
        let section = |(n, bytes): &(usize, usize)| {
            let (n, bytes) = (*n, *bytes);
            (0..n).map(move |i| Block { bytes, position: (i as f32 + 0.5) / n as f32 })
        };
        (0..layers).flat_map(|_| sections.iter().flat_map(section).collect::<Vec<_>>()).collect()
    }

    proptest! {
        #[test]
        fn placement_keeps_its_rules(layers in 1usize..6, sections in prop::collection::vec((1usize..9, 1usize..20000), 1..5),
                                     extra in 0u64..2_000_000, loads in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
            let blocks = model(layers, &sections);
            let mut dram = Dram::place(&blocks, extra);
            dram.validate().unwrap();
            for index in loads {
                let id = BlockId(index.index(blocks.len()) as u32);
                let before = dram.find(id);
                dram.loaded(id);
                dram.validate().unwrap();
                let expected = if let Place::Reserved(s) = before { Place::Loaded(s) } else { before };
                prop_assert_eq!(dram.find(id), expected);
            }
        }

        #[test]
        fn equal_layers_get_equal_shares(layers in 1usize..8, count in 1usize..12, budget in 0u64..400_000) {
            let blocks = model(layers, &[(count, 4096)]);
            let dram = Dram::place(&blocks, budget);
            let fixed = |l: usize| (0..count).filter(|i| dram.find(BlockId((l * count + i) as u32)) != Place::Ring).count();
            let shares: Vec<usize> = (0..layers).map(fixed).collect();
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            prop_assert_eq!(shares.iter().sum::<usize>() as u64, (budget / 4096).min((layers * count) as u64));
        }
    }
}
