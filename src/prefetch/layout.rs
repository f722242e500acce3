//! Which slots of the arena are whose.

use crate::error::Result;
use crate::io::ALIGN;
use crate::mem::{Arena, PIECE, Run, SlotId};
use crate::tier::{Dram, FRAME, paged};
use std::sync::Arc;

/// How the slots of an arena are used: frames of both rings first (a slab of their own, which io_uring registers), then
/// those for single records, then the tier's.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Frames of the ring of scheduled steps.
    pub ring: u32,
    /// Pages of the ring of chosen steps: records are read there page by page, each in its place in the block.
    pub chosen: u32,
    /// Sizes of the slots for single records.
    pub singles: Vec<usize>,
}

impl Layout {
    /// Bytes of both rings at most: they lie in one slab.
    pub const MOST: usize = PIECE;
    /// Bytes of a page of the ring of chosen steps.
    pub const PAGE: usize = ALIGN;

    /// An arena for this layout and a tier's slots.
    pub fn arena(&self, dram: &Dram) -> Result<Arc<Arena>> {
        let rings = [vec![FRAME; self.ring as usize], vec![Layout::PAGE; self.chosen as usize]].concat();
        Arena::new(&[&rings, &self.singles, dram.slots()])
    }

    /// The slot of a single record.
    pub(super) fn single(&self, index: usize) -> Run {
        SlotId(self.ring + self.chosen + index as u32).into()
    }

    /// A slot of the tier.
    pub(super) fn fixed(&self, slot: u32) -> Run {
        SlotId(self.ring + self.chosen + self.singles.len() as u32 + slot).into()
    }

    /// Bytes of the rings and of the slots for single records.
    pub(super) fn ring_bytes(&self) -> u64 {
        let rings = u64::from(self.ring) * FRAME as u64 + u64::from(self.chosen) * Layout::PAGE as u64;
        rings + self.singles.iter().map(|n| paged(*n)).sum::<u64>()
    }
}
