//! What a token touches: the bytes that mean something of the records that computing it uses, counted as if it were alone.
//! What pads records in the store, and what is read in vain, is not among them (docs/design.md, 2).

use crate::config::{Architecture, Coding, Cut, Ffn, Recipe, Sparse};
use crate::types::{LEVELS, Level, Plane};
use std::collections::BTreeMap;

/// What a model's records hold.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    /// Bytes of a record of one matrix, by plane.
    planes: [u64; 3],
    /// Matrices in front of down: gate and up, or up alone.
    ahead: u64,
    /// Records of a head in a matrix of attention.
    head: u64,
}

impl Touched {
    /// Of a model: all its records are as long.
    pub fn new(arch: &Architecture, coding: &Coding) -> Touched {
        let planes = Plane::ALL.map(|plane| coding.plane_bytes(plane, arch.hidden) as u64);
        Touched { planes, ahead: arch.ffn_matrices().len() as u64 - 1, head: arch.head_dim as u64 }
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

    /// What attention touches: q and o of some query heads, k and v of some KV heads.
    pub fn heads(&self, level: Level, query: u64, kv: u64) -> u64 {
        2 * (query + kv) * self.head * self.record(level)
    }

    /// The most that a token can touch under a recipe, by part; what chooses heads, and a predictor, is not of them.
    pub fn most(&self, arch: &Architecture, recipe: &Recipe) -> BTreeMap<&'static str, u64> {
        let layers = |of: &dyn Fn(usize) -> u64| (0..arch.layers).map(of).sum::<u64>();
        let query = |layer| recipe.query_heads(layer).unwrap_or(arch.heads) as u64;
        BTreeMap::from([
            ("attn", layers(&|layer| self.heads(recipe.attn, query(layer), arch.kv_heads as u64))),
            ("embed", self.record(recipe.embed)),
            ("ffn", layers(&|layer| self.most_neurons(arch.ffn, recipe, layer))),
            ("head", arch.vocab as u64 * self.record(recipe.head)),
        ])
    }

    fn most_neurons(&self, neurons: usize, recipe: &Recipe, layer: usize) -> u64 {
        match &recipe.ffn {
            Ffn::Dense(level) | Ffn::Certified(level) => neurons as u64 * self.neuron(*level, None),
            Ffn::Sparse(sparse) => self.most_ranked(neurons, sparse, layer),
        }
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
