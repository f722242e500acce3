//! A fixed set of blocks: what was chosen at the start stays, everything else passes by.
//!
//! The policy of dense models, whose access is cyclic: any fixed set is hit once a token, while whatever replaces blocks
//! by recency has just thrown away what comes next (docs/design.md, 6).

use super::residents::Residents;
use super::{Access, Policy};
use crate::tier::dram::even_order;
use crate::tier::{Block, BlockId};

/// See the module.
#[derive(Clone, Debug)]
pub struct Fixed {
    keep: Vec<bool>,
    residents: Residents,
}

impl Fixed {
    /// Chooses blocks in `order` as long as they fit: for a sparse tier the hottest first, from a profile.
    pub fn new(blocks: &[Block], capacity: u64, order: impl IntoIterator<Item = usize>) -> Fixed {
        let (mut keep, mut left) = (vec![false; blocks.len()], capacity);
        for block in order {
            let bytes = blocks[block].bytes as u64;
            if !keep[block] && bytes <= left {
                left -= bytes;
                keep[block] = true;
            }
        }
        Fixed { keep, residents: Residents::new(blocks, capacity, 1) }
    }

    /// The same share of every section, evenly across layers: what `Dram` places.
    pub fn even(blocks: &[Block], capacity: u64) -> Fixed {
        Fixed::new(blocks, capacity, even_order(blocks))
    }

    /// Whether a block is of the set.
    pub fn keeps(&self, block: BlockId) -> bool {
        self.keep[block.0 as usize]
    }
}

impl Policy for Fixed {
    fn access(&mut self, block: BlockId, evictable: &dyn Fn(BlockId) -> bool, evicted: &mut Vec<BlockId>) -> Access {
        evicted.clear();
        if self.residents.holds(block) {
            Access::Hit
        } else if self.keeps(block) && self.residents.admit(block, 0, 0, evictable, evicted) {
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
        let stray = self.residents.list(0).find(|block| !self.keeps(*block));
        stray.map_or(Ok(()), |block| Err(format!("{block:?} is in and was never chosen")))
    }
}
