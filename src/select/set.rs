//! What is computed of a layer's neurons.

use crate::types::{CHUNK, Level};

/// Tokens of a set at most: a bit each.
pub const COLUMNS: usize = 32;

/// Levels of the bands of a chunk, in their order: that in which portions are summed (docs/format.md, 6).
pub const LEVELS: [Level; 3] = [Level::L16, Level::L8, Level::L4];

/// Neurons of a chunk that some token uses at one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// The level.
    pub level: Level,
    /// Places in the chunk, rising.
    pub ids: Vec<u32>,
    /// For each of `ids` a bit for every token that uses it at this level; never 0.
    pub used: Vec<u32>,
}

/// The active set of up to [`COLUMNS`] tokens: a neuron may be in several bands of its chunk, for different tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveSet {
    /// Tokens.
    pub columns: usize,
    /// Bands of every chunk, by [`LEVELS`].
    pub chunks: Vec<[Band; 3]>,
}

impl ActiveSet {
    /// No neuron of `neurons`.
    pub fn empty(columns: usize, neurons: usize) -> ActiveSet {
        let none = LEVELS.map(|level| Band { level, ids: vec![], used: vec![] });
        ActiveSet { columns, chunks: vec![none; neurons.div_ceil(CHUNK)] }
    }

    /// All of `neurons` for every token, at one level.
    pub fn all(columns: usize, neurons: usize, level: Level) -> ActiveSet {
        let mut set = ActiveSet::empty(columns, neurons);
        let used = u32::MAX >> (COLUMNS - columns);
        for (chunk, bands) in set.chunks.iter_mut().enumerate() {
            let count = CHUNK.min(neurons - chunk * CHUNK);
            if let Some(band) = bands.iter_mut().find(|band| band.level == level) {
                (band.ids, band.used) = ((0..count as u32).collect(), vec![used; count]);
            }
        }
        set
    }
}
