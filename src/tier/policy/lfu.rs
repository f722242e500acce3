//! Least frequently used, with decay: a block enters only over blocks that were wanted less often than it.
//!
//! Counts are kept of every block, in the tier or not, and halved at fixed numbers of accesses, so that what was hot once
//! leaves. This is TinyLFU's admission and reset (Einziger, Friedman and Manes, arXiv 1512.00727) with exact counts for its
//! sketch, which block numbers allow. Equals do not displace each other: on cyclic access the set stays fixed, except for
//! what a halving in the middle of a cycle makes unequal.

use super::residents::Residents;
use super::{Access, Policy};
use crate::tier::{Block, BlockId};

/// Counts stop here: there is a list for each, and what reached it is hot enough.
const MOST: u8 = 255;
/// Accesses between two halvings, per block of the model; TinyLFU's samples are some ten times its cache.
const PERIOD: u64 = 10;

/// See the module.
#[derive(Clone, Debug)]
pub struct Lfu {
    counts: Vec<u8>,
    /// List c has the blocks that were wanted c times, the longest there first.
    residents: Residents,
    accesses: u64,
    period: u64,
}

impl Lfu {
    /// Nothing in the tier yet.
    pub fn new(blocks: &[Block], capacity: u64) -> Lfu {
        Lfu::with_period(blocks, capacity, PERIOD * blocks.len().max(1) as u64)
    }

    /// With that many accesses between two halvings.
    pub fn with_period(blocks: &[Block], capacity: u64, period: u64) -> Lfu {
        let residents = Residents::new(blocks, capacity, usize::from(MOST) + 1);
        Lfu { counts: vec![0; blocks.len()], residents, accesses: 0, period }
    }

    fn count(&mut self, block: BlockId) -> usize {
        self.accesses += 1;
        if self.accesses.is_multiple_of(self.period) {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.residents.halve_lists();
        }
        let count = &mut self.counts[block.0 as usize];
        *count = count.saturating_add(1);
        usize::from(*count)
    }
}

impl Policy for Lfu {
    fn access(&mut self, block: BlockId, evictable: &dyn Fn(BlockId) -> bool, evicted: &mut Vec<BlockId>) -> Access {
        evicted.clear();
        let count = self.count(block);
        if self.residents.holds(block) {
            self.residents.touch(block, count);
            Access::Hit
        } else if self.residents.admit(block, count, count, evictable, evicted) {
            Access::Admitted
        } else {
            Access::Bypassed
        }
    }

    fn residents(&self) -> &Residents {
        &self.residents
    }

    fn residents_mut(&mut self) -> &mut Residents {
        &mut self.residents
    }

    fn validate(&self) -> Result<(), String> {
        self.residents.validate()?;
        let misplaced = (0..=MOST).find(|count| {
            self.residents.list(usize::from(*count)).any(|block| self.counts[block.0 as usize] != *count)
        });
        misplaced.map_or(Ok(()), |count| Err(format!("list {count} has a block with another count")))
    }
}
