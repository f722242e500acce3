//! Counters of what a tier gave and what it had to fetch.

/// Of one section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes served from the tier.
    pub hit_bytes: u64,
    /// Bytes read from the tier below.
    pub read_bytes: u64,
    /// Reads that took.
    pub reads: u64,
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

    /// Notes one read from the tier below.
    pub fn read(&mut self, section: usize, bytes: usize) {
        self.sections[section].read_bytes += bytes as u64;
        self.sections[section].reads += 1;
    }
}
