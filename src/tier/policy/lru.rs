//! Least recently used: out goes what was not wanted for longest.
//!
//! M2Cache keeps its neuron-level HBM cache so (arXiv 2410.14740); on cyclic access larger than the tier it never hits.

use super::residents::Residents;
use super::{Access, Policy};
use crate::tier::{Block, BlockId};

/// See the module.
#[derive(Clone, Debug)]
pub struct Lru {
    residents: Residents,
}

impl Lru {
    /// Nothing in the tier yet.
    pub fn new(blocks: &[Block], capacity: u64) -> Lru {
        Lru { residents: Residents::new(blocks, capacity, 1) }
    }
}

impl Policy for Lru {
    fn access(&mut self, block: BlockId, evictable: &dyn Fn(BlockId) -> bool, evicted: &mut Vec<BlockId>) -> Access {
        evicted.clear();
        if self.residents.holds(block) {
            self.residents.touch(block, 0);
            Access::Hit
        } else if self.residents.admit(block, 0, 1, evictable, evicted) {
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
        self.residents.validate()
    }
}
