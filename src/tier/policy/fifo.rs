//! First in, first out, behind a fixed area: M2Cache's layer-aware DRAM cache (arXiv 2410.14740).
//!
//! The fixed area keeps the first layers, which the next token wants at once. The dynamic area is a window that moves
//! through the others: layers enter in the order in which they are read ahead from SSD, and the oldest leave. So the
//! window hides latency and saves no bytes; in a replay without look-ahead only the fixed area hits on cyclic access.

use super::residents::Residents;
use super::{Access, Fixed, Policy};
use crate::tier::{Block, BlockId};

/// See the module.
#[derive(Clone, Debug)]
pub struct FifoWindow {
    fixed: Fixed,
    window: Residents,
}

impl FifoWindow {
    /// Blocks in model order; the first that fit into `fixed` bytes of the capacity are the fixed area.
    pub fn new(blocks: &[Block], capacity: u64, fixed: u64) -> FifoWindow {
        let first = |left: &mut u64, block: &Block| {
            *left = left.checked_sub(block.bytes as u64)?;
            Some(*left)
        };
        let room = fixed.min(capacity);
        let count = blocks.iter().scan(room, first).count();
        let used: u64 = blocks[..count].iter().map(|b| b.bytes as u64).sum();
        FifoWindow { fixed: Fixed::new(blocks, used, 0..count), window: Residents::new(blocks, capacity - used, 1) }
    }
}

impl Policy for FifoWindow {
    fn access(&mut self, block: BlockId, evictable: &dyn Fn(BlockId) -> bool, evicted: &mut Vec<BlockId>) -> Access {
        if self.fixed.keeps(block) {
            return self.fixed.access(block, evictable, evicted);
        }
        evicted.clear();
        if self.window.holds(block) {
            Access::Hit
        } else if self.window.admit(block, 0, 1, evictable, evicted) {
            Access::Admitted
        } else {
            Access::Bypassed
        }
    }

    fn residents(&self) -> &Residents {
        &self.window
    }

    fn residents_mut(&mut self) -> &mut Residents {
        &mut self.window
    }

    fn forget(&mut self, block: BlockId) {
        self.fixed.forget(block);
        self.window.remove(block);
    }

    fn holds(&self, block: BlockId) -> bool {
        self.fixed.holds(block) || self.window.holds(block)
    }

    fn used(&self) -> u64 {
        self.fixed.used() + self.window.used()
    }

    fn validate(&self) -> Result<(), String> {
        self.fixed.validate()?;
        self.window.validate()?;
        let twice = self.window.list(0).find(|block| self.fixed.keeps(*block));
        twice.map_or(Ok(()), |block| Err(format!("{block:?} of the fixed area is in the window")))
    }
}
