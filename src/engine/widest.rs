//! What the largest steps of a recipe take of the rings.

use super::walk::Walk;
use crate::io::ALIGN;
use crate::prefetch::Layout;
use crate::store::{Catalog, SectionId, SectionLayout};
use crate::tier::{FRAME, frames, paged};
use crate::types::CHUNK;

/// What the largest steps take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widest {
    /// Frames of a step.
    pub step: u32,
    /// Pages of a step that is chosen while a token is computed.
    pub chosen: u32,
    /// Planes of an embedding.
    pub planes: usize,
    /// Bytes of one of them, with room for the pages around it.
    pub row: usize,
}

impl Widest {
    /// Of rows that are read one by one.
    pub fn of_rows(catalog: &Catalog, walk: &Walk) -> Widest {
        let slot = |id: &SectionId| (catalog.section(*id).stride + ALIGN).next_multiple_of(ALIGN);
        let row = walk.sections.iter().map(slot).max().unwrap_or(0);
        Widest { planes: walk.sections.len(), row, ..Widest::default() }
    }

    /// Of a walk's steps.
    pub fn of_walk(catalog: &Catalog, walk: &Walk, chosen: bool) -> Widest {
        let largest = |id: &SectionId| block_bytes(catalog.section(*id), 0);
        let pages = |id: &SectionId| (paged(largest(id)) / Layout::PAGE as u64) as u32;
        let chosen = if chosen { walk.sections.iter().map(pages).sum() } else { 0 };
        Widest { step: walk.sections.iter().map(|id| frames(largest(id))).sum(), chosen, ..Widest::default() }
    }

    /// What is enough for both.
    pub fn max(self, other: Widest) -> Widest {
        Widest {
            step: self.step.max(other.step),
            chosen: self.chosen.max(other.chosen),
            planes: self.planes.max(other.planes),
            row: self.row.max(other.row),
        }
    }

    /// In words, what there is no room for.
    pub fn lacks(self, other: Widest) -> Option<String> {
        let kib = |frames: u32, size: usize| (frames as usize * size) >> 10;
        if other.chosen > 0 && self.chosen == 0 {
            return Some("room for records that are chosen while a token is computed".into());
        }
        let [step, chosen] = [(other.step, self.step, FRAME), (other.chosen, self.chosen, Layout::PAGE)];
        for (needs, have, size) in [step, chosen] {
            if needs > have {
                return Some(format!("room for steps of {} KiB instead of {} KiB", kib(needs, size), kib(have, size)));
            }
        }
        (other.planes > self.planes || other.row > self.row).then(|| "room for finer embeddings".into())
    }
}

/// Bytes of a section's block.
pub fn block_bytes(layout: &SectionLayout, chunk: usize) -> usize {
    layout.stride * CHUNK.min(layout.records - chunk * CHUNK)
}
