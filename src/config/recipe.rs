//! What is computed of a model: a level for every part, and which neurons of the FFN at which levels. Chosen by the user
//! or read from a tuned store, never derived from a budget.

mod needs;
mod parse;
#[cfg(test)]
mod tests;
mod validate;

use crate::types::Level;
use serde::{Deserialize, Serialize};

/// What is computed, as JSON: `{"attn": 8, "head": 8, "embed": 16, "prompt": 8, "ffn": {"dense": 4}}`, and where some query
/// heads are left out `"query_heads": {"top": 16}`.
/// [`Recipe::parse`] reads it, and names the field that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// q, k, v, o.
    pub attn: Level,
    /// Output head.
    pub head: Level,
    /// Embedding rows.
    pub embed: Level,
    /// FFN of prompt tokens: always dense.
    pub prompt: Level,
    /// FFN of decode tokens.
    pub ffn: Ffn,
    /// Query heads of decode tokens; all without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_heads: Option<TopHeads>,
}

/// How many query heads a decode token has in each layer; a single count is every layer's. Keys and values are always
/// those of all heads: tokens to come may look at them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopHeads {
    /// The highest by the heads' predictor (`Engine.set_head_predictor`).
    pub top: Vec<usize>,
}

/// Which neurons of the FFN are computed for a token, and at which level.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ffn {
    /// All, at one level.
    Dense(Level),
    /// All that are not proven to be off at this level by the planes below it: the bits of `Dense`.
    Certified(Level),
    /// Those that a selector ranks highest.
    Sparse(Sparse),
}

/// A ranking and where it is cut.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sparse {
    /// What gives neurons their scores.
    pub selector: Selector,
    /// Where each layer's ranking is cut; a single one is every layer's.
    pub cuts: Vec<Cut>,
}

/// What gives neurons their scores: larger is more important.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Selector {
    /// What they give at 4 bits: |activation(gate . x) * (up . x)| (docs/design.md, 5).
    Plane,
    /// What low-rank factors of the gate foretell (Deja Vu).
    Lowrank,
    /// `Plane`, of as many in each layer as `Lowrank` ranks highest, the others behind them; a single count is every
    /// layer's.
    Cascade(Vec<usize>),
    /// What they give at 16 bits: needs every weight, and is what the others are measured by.
    Oracle,
    /// A generated ranking behind the scores of a selector that are computed and dropped: for benches.
    Trace(Trace),
}

/// A generated ranking: neuron j has mean m_j = skew * N(0, 1) and a latent that keeps `memory` of itself from token to
/// token (docs/design.md, 5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// Whose scores are computed.
    pub paid: Box<Selector>,
    /// r of z(t) = r z(t - 1) + sqrt(1 - r^2) N(0, 1); 0 to 1.
    pub memory: f32,
    /// k.
    pub skew: f32,
    /// Of the generator.
    pub seed: u64,
}

/// Where a ranking is cut: arrays are by level, 16, 8 and 4 bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Cut {
    /// So many of the highest at 16 bits, of the next at 8, of the next at 4.
    Top([usize; 3]),
    /// By threshold.
    Above(Above),
}

/// Neurons from thresholds on: at the finest level whose threshold the score reaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Above {
    /// None for a level that is not used; a finer level's may not be below a coarser one's.
    pub scores: [Option<f32>; 3],
    /// The highest are kept where more reach a threshold (k_max).
    pub most: usize,
}
