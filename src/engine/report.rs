//! What the tiers did, as plain data.

use super::Engine;
use super::counted::{Attended, Counted};
use crate::kernels::Isa;
use crate::prefetch::Access;
use crate::store::SectionId;
use crate::tier::{Block, BlockId, Counters, Place, Stats};
use serde::Serialize;
use std::time::Duration;

/// What moved.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Moved {
    /// From and past the cache.
    #[serde(flatten)]
    pub counters: Counters,
    /// Seconds that steps waited.
    pub wait_seconds: f64,
}

/// One section name, summed over layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SectionReport {
    /// Section name.
    pub section: String,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// What moved.
    #[serde(flatten)]
    pub moved: Moved,
}

/// One layer; the last stands for embedding and head.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LayerReport {
    /// The layer, or none.
    pub layer: Option<usize>,
    /// Seconds spent computing: in its parts, less waiting.
    pub compute_seconds: f64,
    /// What moved.
    #[serde(flatten)]
    pub moved: Moved,
}

/// What the tiers did since the engine was opened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// I/O engine.
    pub io: &'static str,
    /// What the I/O engine could not have, and why: a sentence each.
    pub notes: Vec<String>,
    /// Instruction set of the kernels.
    pub isa: &'static str,
    /// Threads.
    pub threads: usize,
    /// Bytes of fixed cache slots.
    pub fixed_bytes: u64,
    /// Bytes of the read ring, single rows included.
    pub ring_bytes: u64,
    /// Seconds spent computing.
    pub compute_seconds: f64,
    /// What the FFN of decode tokens touched.
    pub ffn: Counted,
    /// What attention of decode tokens touched.
    pub attention: Attended,
    /// What moved in all.
    #[serde(flatten)]
    pub moved: Moved,
    /// Per section name, in file order.
    pub sections: Vec<SectionReport>,
    /// Per layer, embedding and head last.
    pub layers: Vec<LayerReport>,
}

impl Moved {
    fn add(&mut self, counters: &Counters, waited: Duration) {
        self.counters.add(counters);
        self.wait_seconds += waited.as_secs_f64();
    }
}

/// A block of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlockReport {
    /// Its layer, or none for the head.
    pub layer: Option<usize>,
    /// Its section.
    pub section: String,
    /// Its size.
    pub bytes: usize,
    /// Whether it has a slot of its own in the cache.
    pub fixed: bool,
}

impl Engine {
    /// What could not be had, of reading and of computing.
    fn notes(&self) -> Vec<String> {
        let refused = Isa::refused().map(|(why, remedy)| format!("AMX is there, but is not used: {why}. {remedy}"));
        self.weights.notes().iter().cloned().chain(refused).collect()
    }

    /// What the tiers did so far.
    pub fn report(&self) -> Report {
        let fetcher = self.weights.fetcher();
        let stats = fetcher.stats();
        let layers = self.layer_reports(&stats);
        Report {
            io: fetcher.engine(),
            notes: self.notes(),
            isa: self.cpu.isa.name(),
            threads: self.cpu.threads(),
            fixed_bytes: fetcher.dram().bytes(),
            ring_bytes: fetcher.ring_bytes(),
            compute_seconds: layers.iter().map(|l| l.compute_seconds).sum(),
            ffn: self.counted.clone(),
            attention: self.attending.counted().clone(),
            moved: self.moved(&stats, |_| true),
            sections: self.section_reports(&stats),
            layers,
        }
    }

    /// What the blocks are, by number.
    pub fn blocks(&self) -> Vec<BlockReport> {
        let (store, room) = (self.weights.store(), self.weights.room());
        let block = |(number, (section, block)): (usize, (SectionId, &Block))| BlockReport {
            layer: store.files[store.section(section).file].layout.layer,
            section: store.section(section).layout.name.clone(),
            bytes: block.bytes,
            fixed: self.weights.fetcher().dram().find(BlockId(number as u32)) != Place::Ring,
        };
        room.block_sections().iter().copied().zip(&room.blocks).enumerate().map(block).collect()
    }

    /// Begins or ends to note every access to a block.
    pub fn trace(&mut self, on: bool) {
        self.weights.fetcher_mut().trace(on);
    }

    /// The accesses noted since the last call.
    pub fn take_trace(&mut self) -> Vec<Access> {
        self.weights.fetcher_mut().take_trace()
    }

    /// What moved of the sections that `counts`.
    fn moved(&self, stats: &Stats, counts: impl Fn(usize) -> bool) -> Moved {
        let waited = self.weights.fetcher().waited();
        let mut moved = Moved::default();
        for (id, counters) in stats.sections.iter().enumerate().filter(|(id, _)| counts(*id)) {
            moved.add(counters, waited[id]);
        }
        moved
    }

    fn layer_reports(&self, stats: &Stats) -> Vec<LayerReport> {
        let store = self.weights.store();
        let layer = |(index, spent): (usize, &Duration)| {
            let moved = self.moved(stats, |id| store.sections[id].file == index);
            let compute_seconds = (spent.as_secs_f64() - moved.wait_seconds).max(0.0);
            LayerReport { layer: store.files[index].layout.layer, compute_seconds, moved }
        };
        self.spent.iter().enumerate().map(layer).collect()
    }

    fn section_reports(&self, stats: &Stats) -> Vec<SectionReport> {
        let sections = &self.weights.store().sections;
        let mut reports: Vec<SectionReport> = Vec::new();
        for section in sections {
            let name = &section.layout.name;
            if reports.iter().all(|r| r.section != *name) {
                let same = |id: usize| sections[id].layout.name == *name;
                let stored = sections.iter().filter(|s| s.layout.name == *name).map(|s| s.layout.bytes()).sum();
                reports.push(SectionReport {
                    section: name.clone(),
                    stored_bytes: stored,
                    moved: self.moved(stats, same),
                });
            }
        }
        reports
    }
}
