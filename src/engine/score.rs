//! Scores of a layer's neurons, by the recipe's selector.

use super::Engine;
use super::ffn::neurons;
use super::threads::{each, pooled, together};
use super::walk::{Part, WalkId};
use crate::config::Selector;
use crate::error::{Error, Result};
use crate::kernels::neurons::values;
use crate::kernels::panel::Panel;
use crate::kernels::project::Inputs;
use crate::types::{CHUNK, Level};

/// Scores, and the values that they were made from.
pub struct Scores {
    /// `[N, ffn]`; larger is more important.
    pub rows: Vec<f32>,
    /// Level of the values, if there are any.
    pub level: Option<Level>,
    /// Bytes that a token's scores touched beside the values' records.
    pub predictor_bytes: u64,
    /// Of every chunk.
    panels: Vec<Panel>,
}

impl Scores {
    /// What the neurons of a chunk give at a level, if that is known already.
    pub fn scanned(&self, level: Level, chunk: usize) -> Option<&Panel> {
        self.panels.get(chunk).filter(|_| self.level == Some(level))
    }
}

impl Engine {
    /// Scores of every neuron of a layer for rows `x [N, hidden]` before the norm, `[N, ffn]`: larger is more important.
    ///
    /// # Errors
    /// `Error::Usage` for shapes, and for a recipe that has no selector; those of reading the store.
    pub fn scores(&mut self, layer: usize, x: &[f32]) -> Result<Vec<f32>> {
        let count = self.check_rows(x)?;
        let cpu = self.cpu.clone();
        let inputs = self.normed(x, &self.vectors.layer(layer)?.norm_ffn, &self.recipe.ffn_levels());
        self.timed(layer, |engine| pooled(&cpu, count, || Ok(engine.score(layer, &inputs)?.rows)))
    }

    /// Scores by the recipe's selector, for inputs at [`crate::config::Recipe::ffn_levels`].
    pub(super) fn score(&mut self, layer: usize, inputs: &Inputs) -> Result<Scores> {
        let sparse = self.recipe.sparse().ok_or_else(no_selector)?;
        match &sparse.selector {
            Selector::Plane => self.scan(layer, inputs, Level::L4),
            Selector::Oracle => self.scan(layer, inputs, Level::L16),
            Selector::Lowrank | Selector::Cascade(_) | Selector::Trace(_) => {
                Err(Error::usage("of the selectors, this build knows plane and oracle"))
            }
        }
    }

    /// What all neurons give at a level, and its size as their scores.
    fn scan(&mut self, layer: usize, inputs: &Inputs, level: Level) -> Result<Scores> {
        let Engine { arch, cpu, weights, vectors, .. } = self;
        let vectors = vectors.layer(layer)?;
        let chunks = 0..arch.ffn.div_ceil(CHUNK);
        let (mut rows, mut panels) = (vec![0.0; inputs.columns * arch.ffn], Vec::with_capacity(chunks.end));
        weights.visit(WalkId::Layer(layer, Part::Scan(level)), chunks, together(inputs.columns), |run| {
            let found = each(cpu, run.iter().collect(), |leased, _| {
                Ok(values(cpu, inputs, arch.activation, &neurons(leased, vectors, arch.gated, level)?))
            })?;
            let to = run.iter().zip(&found);
            to.for_each(|(leased, panel)| panel.put_rows(&mut rows, arch.ffn, leased.records().start));
            panels.extend(found);
            Ok(())
        })?;
        rows.iter_mut().for_each(|value| *value = value.abs());
        Ok(Scores { rows, level: Some(level), predictor_bytes: 0, panels })
    }
}

fn no_selector() -> Error {
    Error::usage("the recipe has no selector: all neurons are computed")
}
