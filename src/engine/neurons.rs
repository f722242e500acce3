//! What the neurons of a layer give, all of them and at any level that is read: what profiles and predictors are made of.

use super::Engine;
use super::ffn::neurons;
use super::threads::{each, together};
use crate::error::{Error, Result};
use crate::kernels::neurons::values;
use crate::types::{CHUNK, Level};

impl Engine {
    /// What every neuron of a layer gives for rows `x [N, hidden]` before the norm, `[N, ffn]`, at a level of up to that
    /// of the recipe: what down is multiplied with.
    ///
    /// # Errors
    /// `Error::Usage` for shapes, and for a level whose planes the recipe does not read; those of reading the store.
    pub fn neurons(&mut self, layer: usize, x: &[f32], level: Level) -> Result<Vec<f32>> {
        let count = self.check_rows(x)?;
        self.part(layer, count, |engine| engine.all_values(layer, x, level))
    }

    fn all_values(&mut self, layer: usize, x: &[f32], level: Level) -> Result<Vec<f32>> {
        let inputs = self.normed(x, &self.vectors.layer(layer)?.norm_ffn, &[level]);
        let Engine { arch, recipe, cpu, weights, vectors, .. } = self;
        let vectors = vectors.layer(layer)?;
        let walk = weights.schedule().reads(layer, arch.ahead_matrices(), level);
        let walk = walk.ok_or_else(|| not_read(level, recipe.ffn_finest()))?;
        let mut out = vec![0.0; inputs.columns * arch.ffn];
        weights.visit(walk, 0..arch.ffn.div_ceil(CHUNK), together(inputs.columns), |run| {
            let panels = each(cpu, run.iter().collect(), |leased, share| {
                Ok(values(share.cpu, &inputs, arch.activation, &neurons(leased, vectors, arch.gated, level)?))
            })?;
            let to = run.iter().zip(&panels);
            to.for_each(|(leased, panel)| panel.put_rows(&mut out, arch.ffn, leased.records().start));
            Ok(())
        })?;
        Ok(out)
    }
}

fn not_read(level: Level, open: Level) -> Error {
    let (asked, open) = (level.bits(), open.bits());
    Error::usage(format!("neurons at {asked} bits of a model whose FFN is open at {open}: open it at {asked}"))
}
