//! What the engine has to have for a recipe.

use super::{Cut, Ffn, Recipe, Selector, Sparse};
use crate::types::{LEVELS, Level};

impl Recipe {
    /// The finest level that the FFN is read at, for prompt or decode tokens: its planes must be stored.
    pub fn ffn_finest(&self) -> Level {
        self.ffn.levels().into_iter().fold(self.prompt, Level::max)
    }

    /// The levels that the FFN's input has to be ready for in decode, coarsest first.
    pub fn ffn_levels(&self) -> Vec<Level> {
        self.ffn.levels()
    }

    /// Where the ranking of a layer is cut, if there is one.
    pub fn cut(&self, layer: usize) -> Option<&Cut> {
        self.sparse()?.cut(layer)
    }

    /// The ranking of decode tokens, if there is one.
    pub fn sparse(&self) -> Option<&Sparse> {
        match &self.ffn {
            Ffn::Sparse(sparse) => Some(sparse),
            Ffn::Dense(_) | Ffn::Certified(_) => None,
        }
    }

    /// Whether what a layer's scan computes at 4 bits is the beginning of what its active neurons are computed in at 8.
    pub fn keeps_dots(&self, layer: usize) -> bool {
        let scans =
            |sparse: &Sparse| sparse.selector.scans() == Some(Level::L4) && sparse.selector.candidates(layer).is_none();
        self.sparse().is_some_and(scans) && self.cut(layer).is_some_and(|cut| cut.uses(Level::L8))
    }

    /// How many query heads a decode token has in a layer; none where it has all.
    pub fn query_heads(&self, layer: usize) -> Option<usize> {
        one_or_each(&self.query_heads.as_ref()?.top, layer).copied()
    }

    /// Whether every layer needs low-rank factors (`Engine.set_predictor`).
    pub fn needs_predictor(&self) -> bool {
        self.sparse().is_some_and(|sparse| sparse.selector.needs_predictor())
    }
}

impl Ffn {
    /// The levels that gate and up are met at, coarsest first.
    pub fn levels(&self) -> Vec<Level> {
        let met = |level: Level| match self {
            Ffn::Dense(all) => level == *all,
            // The interval comes from 4 bits, then from 8.
            Ffn::Certified(finest) => level <= *finest,
            Ffn::Sparse(sparse) => sparse.meets(level),
        };
        LEVELS.into_iter().rev().filter(|level| met(*level)).collect()
    }
}

impl Sparse {
    /// Where the ranking of a layer is cut; none for a layer that the recipe does not know.
    pub fn cut(&self, layer: usize) -> Option<&Cut> {
        one_or_each(&self.cuts, layer)
    }

    fn meets(&self, level: Level) -> bool {
        self.selector.scans() == Some(level) || self.cuts.iter().any(|cut| cut.uses(level))
    }
}

/// What a selector makes its scores from.
struct Ranking<'a> {
    /// The level of a scan of gate and up.
    scan: Option<Level>,
    /// Whether low-rank factors give scores before that.
    predictor: bool,
    /// How many neurons those let through, by layer or for all; none: all of them.
    candidates: &'a [usize],
}

impl Selector {
    fn ranking(&self) -> Ranking<'_> {
        let (scan, predictor, candidates) = match self {
            Selector::Plane => (Some(Level::L4), false, &[][..]),
            Selector::Lowrank => (None, true, &[][..]),
            Selector::Cascade(counts) => (Some(Level::L4), true, &counts[..]),
            Selector::Oracle => (Some(Level::L16), false, &[][..]),
            Selector::Trace(trace) => return trace.paid.ranking(),
        };
        Ranking { scan, predictor, candidates }
    }

    /// The level that gate and up are scanned at: all neurons', or in a cascade those that the predictor lets through.
    pub fn scans(&self) -> Option<Level> {
        self.ranking().scan
    }

    /// Whether it needs low-rank factors.
    pub fn needs_predictor(&self) -> bool {
        self.ranking().predictor
    }

    /// How many neurons of a layer the predictor of a cascade lets through; none for other selectors.
    pub fn candidates(&self, layer: usize) -> Option<usize> {
        one_or_each(self.ranking().candidates, layer).copied()
    }
}

impl Cut {
    /// Whether a neuron can be chosen at a level.
    pub fn uses(&self, level: Level) -> bool {
        let uses = match self {
            Cut::Top(counts) => counts.map(|count| count > 0),
            Cut::Above(above) => above.scores.map(|score| score.is_some()),
        };
        LEVELS.into_iter().zip(uses).any(|(of, uses)| of == level && uses)
    }
}

/// The layer's own, or what all share.
fn one_or_each<T>(all: &[T], layer: usize) -> Option<&T> {
    if let [one] = all { Some(one) } else { all.get(layer) }
}
