//! Counters of what a tier gave and what it had to fetch.

use serde::Serialize;

/// Of one section, or of several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Bytes served from the tier.
    pub hit_bytes: u64,
    /// Bytes read from the tier below that were asked for.
    pub read_bytes: u64,
    /// Bytes read beside them because reads begin and end on pages.
    pub aligned_bytes: u64,
    /// Bytes read between them because one read of neighbours is cheaper than two.
    pub gap_bytes: u64,
    /// Bytes read ahead that nobody came to ask for, or not yet.
    pub unused_bytes: u64,
    /// Reads that took.
    pub reads: u64,
    /// Times a step had to wait for its bytes.
    pub stalls: u64,
}

impl Counters {
    /// Adds those of another section.
    pub fn add(&mut self, other: &Counters) {
        self.hit_bytes += other.hit_bytes;
        self.read_bytes += other.read_bytes;
        self.aligned_bytes += other.aligned_bytes;
        self.gap_bytes += other.gap_bytes;
        self.unused_bytes += other.unused_bytes;
        self.reads += other.reads;
        self.stalls += other.stalls;
    }
}

/// Of all sections, by their number.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Per section.
    pub sections: Vec<Counters>,
}

impl Stats {
    /// Zeros for that many sections.
    pub fn new(sections: usize) -> Stats {
        Stats { sections: vec![Counters::default(); sections] }
    }

    /// Notes bytes served from the tier.
    pub fn hit(&mut self, section: usize, bytes: usize) {
        self.sections[section].hit_bytes += bytes as u64;
    }

    /// Notes one read from the tier below: what was asked for, from its first to its last byte, and all that came.
    pub fn read(&mut self, section: usize, wanted: usize, spanned: usize, came: usize) {
        let counters = &mut self.sections[section];
        counters.read_bytes += wanted as u64;
        counters.gap_bytes += (spanned - wanted) as u64;
        counters.aligned_bytes += (came - spanned) as u64;
        counters.reads += 1;
    }

    /// Notes that bytes counted as read were read ahead in vain.
    pub fn unused(&mut self, section: usize, bytes: usize) {
        self.sections[section].read_bytes -= bytes as u64;
        self.sections[section].unused_bytes += bytes as u64;
    }

    /// Notes that a step waited.
    pub fn stall(&mut self, section: usize) {
        self.sections[section].stalls += 1;
    }
}
