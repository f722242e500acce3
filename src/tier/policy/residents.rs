//! What is in a tier, in lists by the order in which it would leave: list 0 first, from its begin.

use super::lists::Lists;
use crate::tier::{Block, BlockId};

/// Blocks in a tier under a cap in bytes.
#[derive(Clone, Debug)]
pub struct Residents {
    sizes: Vec<u64>,
    lists: Lists,
    used: u64,
    capacity: u64,
}

impl Residents {
    /// None yet.
    pub fn new(blocks: &[Block], capacity: u64, lists: usize) -> Residents {
        let sizes = blocks.iter().map(|b| b.bytes as u64).collect();
        Residents { sizes, lists: Lists::new(blocks.len(), lists), used: 0, capacity }
    }

    /// Whether the block is in.
    pub fn holds(&self, block: BlockId) -> bool {
        self.lists.contains(block.0)
    }

    /// Bytes that are in.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Puts a block that is out at the end of `list`, if what is evictable in the lists below `limit` makes room for it.
    /// What had to leave is in `evicted`; nothing changes where there is too little.
    pub fn admit(
        &mut self,
        block: BlockId,
        list: usize,
        limit: usize,
        evictable: &dyn Fn(BlockId) -> bool,
        evicted: &mut Vec<BlockId>,
    ) -> bool {
        let wanted = self.used + self.sizes[block.0 as usize];
        let fits = wanted <= self.capacity || self.victims(wanted - self.capacity, limit, evictable, evicted);
        if fits {
            evicted.iter().for_each(|victim| self.remove(*victim));
            self.lists.push(list, block.0);
            self.used += self.sizes[block.0 as usize];
        }
        fits
    }

    /// The first evictable blocks of at least `bytes` together, or false and none.
    fn victims(
        &self,
        bytes: u64,
        limit: usize,
        evictable: &dyn Fn(BlockId) -> bool,
        victims: &mut Vec<BlockId>,
    ) -> bool {
        let mut freed = 0;
        for block in (0..limit).flat_map(|list| self.lists.iter(list)).map(BlockId).filter(|b| evictable(*b)) {
            victims.push(block);
            freed += self.sizes[block.0 as usize];
            if freed >= bytes {
                return true;
            }
        }
        victims.clear();
        false
    }

    /// Moves a block that is in to the end of a list.
    pub fn touch(&mut self, block: BlockId, list: usize) {
        self.lists.remove(block.0);
        self.lists.push(list, block.0);
    }

    /// Takes a block out, if it is in.
    pub fn remove(&mut self, block: BlockId) {
        if self.holds(block) {
            self.lists.remove(block.0);
            self.used -= self.sizes[block.0 as usize];
        }
    }

    /// Merges lists by pairs: 0 and 1 into 0, 2 and 3 into 1, and so on.
    pub fn halve_lists(&mut self) {
        for list in 1..self.lists.count() {
            self.lists.append(list / 2, list);
        }
    }

    /// The blocks of a list.
    pub fn list(&self, list: usize) -> impl Iterator<Item = BlockId> {
        self.lists.iter(list).map(BlockId)
    }

    /// Checks links, sums and the cap.
    pub fn validate(&self) -> Result<(), String> {
        self.lists.validate()?;
        let held = (0..self.sizes.len()).filter(|b| self.holds(BlockId(*b as u32)));
        let bytes: u64 = held.map(|b| self.sizes[b]).sum();
        if bytes != self.used || bytes > self.capacity {
            return Err(format!("{bytes} bytes are in, {} are counted, {} allowed", self.used, self.capacity));
        }
        Ok(())
    }
}
