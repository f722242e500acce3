//! Bytes of FFN records that computing a token touches, counted as if it were alone: what its scores need, and what its
//! active neurons need beside. Padding and what is read in vain are not among them.

use crate::config::{Architecture, Coding, Cut, Ffn, Recipe, Sparse};
use crate::types::{LEVELS, Level, Plane};

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
