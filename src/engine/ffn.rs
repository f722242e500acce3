//! The feed-forward branch: chunk by chunk, so that any cache that holds one chunk is enough.

use super::sum::BranchSum;
use super::threads::{each, pooled, together};
use super::vectors::LayerVectors;
use super::walk::WalkId;
use super::weights::Leased;
use super::{Branch, Engine, check_chunks};
use crate::error::Result;
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::neurons::{self, Linear, Neurons};
use crate::types::{CHUNK, Matrix};
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
                let neurons = neurons(leased, vectors, arch.gated)?;
                neurons::add(cpu, &inputs, arch.activation, &neurons, &mut sum, threads);
                Ok(sum)
            })?;
            sum.take(cpu, &chunks);
            Ok(())
        })?;
        Ok(sum.finish())
    }
}

/// The neurons of a leased chunk.
fn neurons<'a>(leased: &'a Leased, vectors: &'a LayerVectors, gated: bool) -> Result<Neurons<'a>> {
    let linear = |matrix| {
        let bias = vectors.bias(matrix).map(|bias| &bias[leased.records()]);
        Ok(Linear { rows: leased.rows(matrix)?, bias })
    };
    let gate = gated.then(|| linear(Matrix::Gate)).transpose()?;
    Ok(Neurons { gate, up: linear(Matrix::Up)?, down: leased.rows(Matrix::Down)? })
}
