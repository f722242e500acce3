//! The feed-forward branch: chunk by chunk, so that any cache that holds one chunk is enough.

use super::sum::BranchSum;
use super::threads::{each, pooled, together};
use super::vectors::LayerVectors;
use super::walk::WalkId;
use super::weights::Leased;
use super::{Branch, Engine, check_chunks};
use crate::error::{Error, Result};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::neurons::{Bias, Linear, Neurons, values};
use crate::types::{CHUNK, Level, Matrix};
use std::ops::Range;

impl Engine {
    /// FFN of rows `x [N, hidden]` before the norm; `chunks` counts runs of 256 neurons.
    ///
    /// # Errors
    /// `Error::Usage` for shapes and ranges; those of reading the store.
    pub fn ffn(&mut self, layer: usize, x: &[f32], chunks: Option<Range<usize>>) -> Result<Branch> {
        let count = self.check_rows(x)?;
        let cpu = self.cpu.clone();
        self.timed(layer, |engine| pooled(&cpu, count, || engine.ffn_branch(layer, x, chunks)))
    }

    pub(super) fn ffn_branch(&mut self, layer: usize, x: &[f32], chunks: Option<Range<usize>>) -> Result<Branch> {
        let inputs = self.normed(x, &self.vectors.layer(layer)?.norm_ffn, self.levels.ffn);
        let range = check_chunks(chunks.clone(), self.arch.ffn.div_ceil(CHUNK), "FFN chunks")?;
        let Engine { arch, cpu, weights, vectors, .. } = self;
        let (vectors, walk) = (vectors.layer(layer)?, WalkId::of(layer, Matrix::Down)?);
        let mut sum = BranchSum::new(chunks.is_some(), inputs.columns, arch.hidden, vectors.bias(Matrix::Down));
        weights.visit(walk, range, together(inputs.columns), |run| {
            let chunks = each(cpu, run.iter().collect(), |leased, threads| {
                let mut sum = ChunkSum::new(inputs.columns, arch.hidden);
                let neurons = neurons(leased, vectors, arch.gated, leased.level())?;
                let h = values(cpu, &inputs, arch.activation, &neurons);
                sum.add(cpu, &leased.rows(Matrix::Down)?, &h, threads);
                Ok(sum)
            })?;
            sum.take(cpu, &chunks);
            Ok(())
        })?;
        Ok(sum.finish())
    }

    /// What every neuron of a layer gives for rows `x [N, hidden]` before the norm, `[N, ffn]`, at a level of up to that
    /// of the recipe: what down is multiplied with.
    ///
    /// # Errors
    /// `Error::Usage` for shapes, and for a level whose planes the recipe does not read; those of reading the store.
    pub fn neurons(&mut self, layer: usize, x: &[f32], level: Level) -> Result<Vec<f32>> {
        if level > self.levels.ffn {
            let (asked, open) = (level.bits(), self.levels.ffn.bits());
            let told = format!("neurons at {asked} bits of a model whose FFN is open at {open}: open it at {asked}");
            return Err(Error::usage(told));
        }
        let count = self.check_rows(x)?;
        let cpu = self.cpu.clone();
        self.timed(layer, |engine| pooled(&cpu, count, || engine.all_values(layer, x, level)))
    }

    fn all_values(&mut self, layer: usize, x: &[f32], level: Level) -> Result<Vec<f32>> {
        let inputs = self.normed(x, &self.vectors.layer(layer)?.norm_ffn, level);
        let Engine { arch, cpu, weights, vectors, .. } = self;
        let (vectors, walk) = (vectors.layer(layer)?, WalkId::of(layer, Matrix::Down)?);
        let mut out = vec![0.0; inputs.columns * arch.ffn];
        weights.visit(walk, 0..arch.ffn.div_ceil(CHUNK), together(inputs.columns), |run| {
            let panels = each(cpu, run.iter().collect(), |leased, _| {
                Ok(values(cpu, &inputs, arch.activation, &neurons(leased, vectors, arch.gated, level)?))
            })?;
            let to = run.iter().zip(&panels);
            to.for_each(|(leased, panel)| panel.put_rows(&mut out, arch.ffn, leased.records().start));
            Ok(())
        })?;
        Ok(out)
    }
}

/// The neurons of a leased chunk, at a level whose planes were leased.
fn neurons<'a>(leased: &'a Leased, vectors: &'a LayerVectors, gated: bool, level: Level) -> Result<Neurons<'a>> {
    let linear = |matrix| {
        let bias = vectors.bias(matrix).map(|bias| Bias::of(&bias[leased.records()]));
        Ok(Linear { rows: leased.rows_at(matrix, level)?, bias })
    };
    let gate = gated.then(|| linear(Matrix::Gate)).transpose()?;
    Ok(Neurons { gate, up: linear(Matrix::Up)? })
}
