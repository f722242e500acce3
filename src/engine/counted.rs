//! What decode tokens of a run touched ([`Touched`]), each counted as if it were alone.

use super::score::Scores;
use super::touched::Touched;
use crate::config::Architecture;
use crate::select::ActiveSet;
use crate::types::{CHUNK, LEVELS, Level};
use serde::Serialize;
use std::ops::Range;

/// What decode tokens touched of one branch.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Decode tokens: the most that went through any layer.
    pub tokens: u64,
    /// Bytes of records that they touched in all layers, what chose them included.
    pub touched_bytes: u64,
    /// Those of what chose them.
    pub selector_bytes: u64,
    /// Tokens by layer.
    #[serde(skip)]
    layers: Vec<u64>,
}

impl Tally {
    /// So many tokens went through a layer.
    pub fn tokens(&mut self, layer: usize, tokens: u64) {
        self.layers.resize(self.layers.len().max(layer + 1), 0);
        self.layers[layer] += tokens;
        self.tokens = self.tokens.max(self.layers[layer]);
    }

    /// Choosing touched so many bytes.
    pub fn choosing(&mut self, bytes: u64) {
        self.selector_bytes += bytes;
        self.touched_bytes += bytes;
    }
}

/// What decode tokens touched of attention.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Attended {
    /// Of the records of q, k, v and o.
    #[serde(flatten)]
    pub tally: Tally,
    /// Query heads that they had.
    pub heads: u64,
}

/// What decode tokens touched of the FFN.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counted {
    /// Of its records.
    #[serde(flatten)]
    pub tally: Tally,
    /// Neurons that they used, at 16, 8 and 4 bits.
    pub neurons: [u64; 3],
    /// Seconds spent generating the rankings of a trace: what a timing has to leave out.
    pub trace_seconds: f64,
}

impl Counted {
    /// Adds tokens that use all neurons of some chunks, or of all.
    pub fn dense(
        &mut self,
        of: &Touched,
        arch: &Architecture,
        level: Level,
        layer: usize,
        tokens: usize,
        chunks: &Option<Range<usize>>,
    ) {
        let neurons = chunks.as_ref().map_or(arch.ffn, |range| {
            arch.ffn.min(range.end.saturating_mul(CHUNK)).saturating_sub(range.start.saturating_mul(CHUNK))
        });
        if chunks.as_ref().is_none_or(|range| range.start == 0) {
            self.tally.tokens(layer, tokens as u64);
        }
        let mut used = [0; 3];
        used[LEVELS.len() - level.plane_count()] = (neurons * tokens) as u64;
        self.add(of, used, None);
    }

    /// Adds the active sets of tokens, in some chunks: their scores with the first.
    pub fn ranked(&mut self, of: &Touched, active: &ActiveSet, chunks: &Range<usize>, layer: usize, scores: &Scores) {
        if chunks.start == 0 {
            let bytes = scores.level.map_or(0, |level| scores.scanned * of.scan(level)) + scores.predictor_bytes;
            self.tally.tokens(layer, active.columns as u64);
            self.tally.choosing(bytes);
        }
        // A single token uses each of them.
        let uses = |used: &Vec<u32>| match active.columns {
            1 => used.len() as u64,
            _ => used.iter().map(|used| u64::from(used.count_ones())).sum(),
        };
        let mut used = [0; 3];
        for bands in &active.chunks[chunks.clone()] {
            used.iter_mut().zip(bands).for_each(|(count, band)| *count += uses(&band.used));
        }
        self.add(of, used, scores.level);
    }

    /// Adds tokens that skip what is proven off: of how many neurons each coarser level was looked at, and how many are
    /// left at the level of the recipe; `first` where these are the first chunks of the layer.
    pub fn certified(
        &mut self,
        of: &Touched,
        proofs: &[(Level, u64)],
        (level, used): (Level, u64),
        layer: usize,
        tokens: u64,
        first: bool,
    ) {
        let mut known = 0;
        for (below, looked_at) in proofs {
            self.tally.choosing(looked_at * (of.record(*below) - known));
            known = of.record(*below);
        }
        self.tally.touched_bytes += used * (of.neuron(level, None) - known);
        self.neurons[LEVELS.len() - level.plane_count()] += used;
        if first {
            self.tally.tokens(layer, tokens);
        }
    }

    fn add(&mut self, of: &Touched, used: [u64; 3], scanned: Option<Level>) {
        for (i, level) in LEVELS.into_iter().enumerate() {
            self.neurons[i] += used[i];
            self.tally.touched_bytes += used[i] * of.neuron(level, scanned);
        }
    }
}
