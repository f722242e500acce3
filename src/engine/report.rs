//! What the tiers did, as plain data.

use super::Engine;
use serde::Serialize;

/// Bytes of one section name, summed over layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SectionReport {
    /// Section name.
    pub section: String,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Bytes served from the cache.
    pub hit_bytes: u64,
    /// Bytes read from the store.
    pub read_bytes: u64,
    /// Reads that took.
    pub reads: u64,
}

/// What the tiers did since the engine was opened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// I/O engine.
    pub io: &'static str,
    /// Instruction set of the kernels.
    pub isa: &'static str,
    /// Threads.
    pub threads: usize,
    /// Bytes of fixed cache slots.
    pub fixed_bytes: u64,
    /// Bytes of ring slots.
    pub ring_bytes: u64,
    /// Bytes served from the cache.
    pub hit_bytes: u64,
    /// Bytes read from the store.
    pub read_bytes: u64,
    /// Reads that took.
    pub reads: u64,
    /// Seconds spent waiting for them.
    pub read_seconds: f64,
    /// Per section name, in file order.
    pub sections: Vec<SectionReport>,
}

impl Engine {
    /// What the tiers did so far.
    pub fn report(&self) -> Report {
        let fetcher = self.weights.fetcher();
        let sections = self.section_reports();
        let sum = |of: fn(&SectionReport) -> u64| sections.iter().map(of).sum();
        Report {
            io: fetcher.engine(),
            isa: self.isa.name(),
            threads: self.pool.current_num_threads(),
            fixed_bytes: fetcher.dram().fixed_bytes(),
            ring_bytes: fetcher.dram().ring_bytes(),
            hit_bytes: sum(|s| s.hit_bytes),
            read_bytes: sum(|s| s.read_bytes),
            reads: sum(|s| s.reads),
            read_seconds: fetcher.waited().as_secs_f64(),
            sections,
        }
    }

    fn section_reports(&self) -> Vec<SectionReport> {
        let mut reports: Vec<SectionReport> = Vec::new();
        for (section, counters) in self.weights.store().sections.iter().zip(&self.weights.fetcher().stats().sections) {
            let name = &section.layout.name;
            let at = reports.iter().position(|r| r.section == *name).unwrap_or_else(|| {
                reports.push(SectionReport { section: name.clone(), ..SectionReport::default() });
                reports.len() - 1
            });
            let report = &mut reports[at];
            report.stored_bytes += section.layout.bytes();
            report.hit_bytes += counters.hit_bytes;
            report.read_bytes += counters.read_bytes;
            report.reads += counters.reads;
        }
        reports
    }
}
