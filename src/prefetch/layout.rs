//! Which slots of the arena are whose.

use crate::error::Result;
use crate::mem::{Arena, PIECE, Run, SlotId};
use crate::tier::{Dram, FRAME, Frames, paged};
use std::sync::Arc;

/// How the slots of an arena are used: ring frames first (a slab of their own), then those for single records, then the
/// tier's.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Frames of the ring.
    pub ring: u32,
    /// Sizes of the slots for single records.
    pub singles: Vec<usize>,
}

impl Layout {
    /// Frames of a ring at most: it lies in one slab.
    pub const MOST: u32 = (PIECE / FRAME) as u32;

    /// An arena for this layout and a tier's slots.
    pub fn arena(&self, dram: &Dram) -> Result<Arc<Arena>> {
        Arena::new(&[&vec![FRAME; self.ring as usize], &self.singles, dram.slots()])
    }

    /// Frames of the ring.
    pub(super) fn frames(&self, frames: Frames) -> Run {
        Run { first: SlotId(frames.first), count: frames.count }
    }

    /// The slot of a single record.
    pub(super) fn single(&self, index: usize) -> Run {
        SlotId(self.ring + index as u32).into()
    }

    /// A slot of the tier.
    pub(super) fn fixed(&self, slot: u32) -> Run {
        SlotId(self.ring + self.singles.len() as u32 + slot).into()
    }

    /// Bytes of the ring and of the slots for single records.
    pub(super) fn ring_bytes(&self) -> u64 {
        u64::from(self.ring) * FRAME as u64 + self.singles.iter().map(|n| paged(*n)).sum::<u64>()
    }
}
