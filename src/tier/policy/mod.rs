//! Eviction policies: which blocks stay in a tier under a cap in bytes.
//!
//! A policy knows numbers only: blocks, their sizes, the order of accesses. It has no slots, reads nothing and looks at no
//! clock, so the same accesses always give the same decisions, with or without a model behind them. The owner of the slots
//! frees those of evicted blocks and fills that of an admitted one; a read ahead of use is an access like any other.
//! Blocks can be of any size: 256 records of a dense sweep, or a run of neurons of a sparse one.

mod fifo;
mod fixed;
mod lfu;
mod lists;
mod lru;
mod residents;
#[cfg(test)]
mod tests;

pub use fifo::FifoWindow;
pub use fixed::Fixed;
pub use lfu::Lfu;
pub use lru::Lru;

use super::{Block, BlockId};
use residents::Residents;
use std::fmt::Debug;

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The block is in the tier.
    Hit,
    /// It was not, and is from now on: its bytes are to be read into a slot of its own.
    Admitted,
    /// It is not and stays out: its bytes pass through the ring.
    Bypassed,
}

/// Decides over the blocks of one tier.
pub trait Policy: Debug + Send {
    /// Notes that a block is wanted. `evicted` is cleared, then holds the blocks that left to make room.
    ///
    /// Nothing leaves for which `evictable` is false: whoever holds leases answers there, and a read or a copy in flight
    /// counts as one. Where too little is evictable the block is bypassed and nothing changes.
    fn access(&mut self, block: BlockId, evictable: &dyn Fn(BlockId) -> bool, evicted: &mut Vec<BlockId>) -> Access;

    /// What it decides over: all that is in the tier, but for what an area of its own holds.
    fn residents(&self) -> &Residents;

    /// As [`Self::residents`], to be changed.
    fn residents_mut(&mut self) -> &mut Residents;

    /// Takes a block out, if it is in: its read failed.
    fn forget(&mut self, block: BlockId) {
        self.residents_mut().remove(block);
    }

    /// Whether a block is in the tier.
    fn holds(&self, block: BlockId) -> bool {
        self.residents().holds(block)
    }

    /// Bytes of the blocks in the tier.
    fn used(&self) -> u64 {
        self.residents().used()
    }

    /// Checks what must hold after every operation; for tests.
    ///
    /// # Errors
    /// The broken rule.
    fn validate(&self) -> Result<(), String>;
}

/// The policies by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Fixed`, evenly over sections and layers.
    Fixed,
    /// `Lru`.
    Lru,
    /// `FifoWindow`, half of it fixed.
    Fifo,
    /// `Lfu`.
    Lfu,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Fixed, Kind::Lru, Kind::Fifo, Kind::Lfu];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Fixed => "fixed",
            Kind::Lru => "lru",
            Kind::Fifo => "fifo",
            Kind::Lfu => "lfu",
        }
    }

    /// The policy of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A policy over blocks in model order, with nothing in the tier yet.
    pub fn build(self, blocks: &[Block], capacity: u64) -> Box<dyn Policy> {
        match self {
            Kind::Fixed => Box::new(Fixed::even(blocks, capacity)),
            Kind::Lru => Box::new(Lru::new(blocks, capacity)),
            Kind::Fifo => Box::new(FifoWindow::new(blocks, capacity, capacity / 2)),
            Kind::Lfu => Box::new(Lfu::new(blocks, capacity)),
        }
    }
}
