//! Bytes of FFN records that computing a token touches, counted as if it were alone: what its scores need, and what its
//! active neurons need beside. Padding and what is read in vain are not among them.

use super::score::Scores;
use crate::config::{Architecture, Coding, Cut, Ffn, Recipe, Sparse};
use crate::select::ActiveSet;
use crate::types::{CHUNK, LEVELS, Level, Plane};
use serde::Serialize;
use std::ops::Range;

/// What a neuron's records hold.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    /// Bytes of a record of one matrix, by plane.
    planes: [u64; 3],
    /// Matrices in front of down: gate and up, or up alone.
    ahead: u64,
}

impl Touched {
    /// Of a model's neurons.
    pub fn new(arch: &Architecture, coding: &Coding) -> Touched {
        let planes = Plane::ALL.map(|plane| coding.plane_bytes(plane, arch.hidden) as u64);
        Touched { planes, ahead: arch.ffn_matrices().len() as u64 - 1 }
    }

    /// A record of one matrix.
    pub fn record(&self, level: Level) -> u64 {
        self.planes[..level.plane_count()].iter().sum()
    }

    /// What scoring a neuron by its value at a level touches of it.
    pub fn scan(&self, level: Level) -> u64 {
        self.ahead * self.record(level)
    }

    /// What computing a neuron touches beside what a scan of it has.
    pub fn neuron(&self, level: Level, scanned: Option<Level>) -> u64 {
        let known = scanned.map_or(0, |scanned| self.record(scanned));
        self.record(level) + self.ahead * self.record(level).saturating_sub(known)
    }

    /// The most that a token can touch of the neurons of all layers under a recipe; what a predictor takes is not of them.
    pub fn most(&self, arch: &Architecture, recipe: &Recipe) -> u64 {
        let all = |level| arch.ffn as u64 * self.neuron(level, None);
        let layer = |layer| match &recipe.ffn {
            Ffn::Dense(level) | Ffn::Certified(level) => all(*level),
            Ffn::Sparse(sparse) => self.most_ranked(arch.ffn, sparse, layer),
        };
        (0..arch.layers).map(layer).sum()
    }

    fn most_ranked(&self, neurons: usize, sparse: &Sparse, layer: usize) -> u64 {
        let scanned = sparse.selector.scans();
        let scored = sparse.selector.candidates(layer).unwrap_or(neurons) as u64;
        let active: u64 = sparse.cut(layer).map_or(0, |cut| {
            most(cut, neurons).into_iter().map(|(level, count)| count * self.neuron(level, scanned)).sum()
        });
        scanned.map_or(0, |level| scored * self.scan(level)) + active
    }
}

/// As many neurons as a cut can take, at the finest levels it can take them at.
fn most(cut: &Cut, neurons: usize) -> Vec<(Level, u64)> {
    match cut {
        Cut::Top(counts) => LEVELS.into_iter().zip(counts.map(|count| count as u64)).collect(),
        Cut::Above(above) => {
            let finest = LEVELS.into_iter().find(|level| cut.uses(*level));
            finest.map(|level| (level, above.most.min(neurons) as u64)).into_iter().collect()
        }
    }
}

/// What decode tokens touched.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counted {
    /// Decode tokens: the most that went through any layer.
    pub tokens: u64,
    /// Bytes of FFN records that they touched in all layers, those for their scores included.
    pub touched_bytes: u64,
    /// Neurons that they used, at 16, 8 and 4 bits.
    pub neurons: [u64; 3],
    /// Bytes that their scores touched.
    pub selector_bytes: u64,
    /// Seconds spent generating the rankings of a trace: what a timing has to leave out.
    pub trace_seconds: f64,
    /// Tokens by layer.
    #[serde(skip)]
    layers: Vec<u64>,
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
            self.tokens(layer, tokens as u64);
        }
        let mut used = [0; 3];
        used[LEVELS.len() - level.plane_count()] = (neurons * tokens) as u64;
        self.add(of, used, None);
    }

    /// Adds the active sets of tokens, in some chunks: their scores with the first.
    pub fn ranked(&mut self, of: &Touched, active: &ActiveSet, chunks: &Range<usize>, layer: usize, scores: &Scores) {
        if chunks.start == 0 {
            let bytes = scores.level.map_or(0, |level| scores.scanned * of.scan(level)) + scores.predictor_bytes;
            self.tokens(layer, active.columns as u64);
            self.selector_bytes += bytes;
            self.touched_bytes += bytes;
        }
        let uses = |used: &Vec<u32>| used.iter().map(|used| u64::from(used.count_ones())).sum::<u64>();
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
            let more = looked_at * (of.record(*below) - known);
            known = of.record(*below);
            self.selector_bytes += more;
            self.touched_bytes += more;
        }
        self.touched_bytes += used * (of.neuron(level, None) - known);
        self.neurons[LEVELS.len() - level.plane_count()] += used;
        if first {
            self.tokens(layer, tokens);
        }
    }

    fn add(&mut self, of: &Touched, used: [u64; 3], scanned: Option<Level>) {
        for (i, level) in LEVELS.into_iter().enumerate() {
            self.neurons[i] += used[i];
            self.touched_bytes += used[i] * of.neuron(level, scanned);
        }
    }

    fn tokens(&mut self, layer: usize, tokens: u64) {
        self.layers.resize(self.layers.len().max(layer + 1), 0);
        self.layers[layer] += tokens;
        self.tokens = self.tokens.max(self.layers[layer]);
    }
}
