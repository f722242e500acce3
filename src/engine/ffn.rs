//! The feed-forward branch: chunk by chunk, so that any cache that holds one chunk is enough.

use super::sum::BranchSum;
use super::threads::{Share, each_then, together};
use super::vectors::LayerVectors;
use super::walk::{Part, WalkId};
use super::weights::Leased;
use super::{Branch, Engine, check_chunks};
use crate::config::Ffn;
use crate::error::Result;
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::neurons::{Bias, Linear, Neurons, values};
use crate::types::{CHUNK, Kind, Level, Matrix};
use std::ops::Range;

impl Engine {
    /// FFN of rows `x [N, hidden]` of one kind before the norm; `chunks` counts runs of 256 neurons.
    ///
    /// # Errors
    /// `Error::Usage` for shapes and ranges; those of reading the store.
    pub fn ffn(&mut self, layer: usize, x: &[f32], chunks: Option<Range<usize>>, kind: Kind) -> Result<Branch> {
        let count = self.check_rows(x)?;
        self.part(layer, count, |engine| engine.ffn_branch(layer, x, chunks, kind, &[]))
    }

    /// `positions` are those of the rows, where they are known: a trace ranks by them.
    pub(super) fn ffn_branch(
        &mut self,
        layer: usize,
        x: &[f32],
        chunks: Option<Range<usize>>,
        kind: Kind,
        positions: &[u32],
    ) -> Result<Branch> {
        match (kind, &self.recipe.ffn) {
            (Kind::Prompt, _) => self.dense(layer, x, chunks, self.recipe.prompt),
            (Kind::Decode, Ffn::Dense(level)) => {
                let (level, tokens) = (*level, x.len() / self.arch.hidden);
                let branch = self.dense(layer, x, chunks.clone(), level)?;
                self.counted.dense(&self.touched, &self.arch, level, layer, tokens, &chunks);
                Ok(branch)
            }
            (Kind::Decode, Ffn::Sparse(_)) => self.ranked(layer, x, chunks, positions),
            (Kind::Decode, Ffn::Certified(level)) => self.certified(layer, x, chunks, *level),
        }
    }

    /// All neurons at one level.
    fn dense(&mut self, layer: usize, x: &[f32], chunks: Option<Range<usize>>, level: Level) -> Result<Branch> {
        let inputs = self.normed(x, &self.vectors.layer(layer)?.norm_ffn, &[level]);
        let range = check_chunks(chunks.clone(), self.arch.ffn.div_ceil(CHUNK), "FFN chunks")?;
        let Engine { arch, cpu, weights, vectors, .. } = self;
        let vectors = vectors.layer(layer)?;
        let mut sum = BranchSum::new(chunks.is_some(), inputs.columns, arch.hidden, vectors.bias(Matrix::Down));
        weights.visit(WalkId::Layer(layer, Part::Ffn(level)), range, together(inputs.columns), |run| {
            let one = |leased: &Leased, share: Share| {
                let mut sum = ChunkSum::new(inputs.columns, arch.hidden);
                let neurons = neurons(leased, vectors, arch.gated, level)?;
                let h = values(share.cpu, &inputs, arch.activation, &neurons);
                sum.add(cpu, &leased.rows(Matrix::Down)?, &h, share.sums);
                Ok(sum)
            };
            each_then(cpu, run.iter().collect(), size_of::<f32>() * inputs.columns * arch.hidden, one, |chunk| {
                sum.take_one(cpu, &chunk)
            })
        })?;
        Ok(sum.finish())
    }
}

/// The neurons of a leased chunk, at a level whose planes were leased.
pub(super) fn neurons<'a>(
    leased: &'a Leased,
    vectors: &'a LayerVectors,
    gated: bool,
    level: Level,
) -> Result<Neurons<'a>> {
    let linear = |matrix| {
        let bias = vectors.bias(matrix).map(|bias| Bias::of(&bias[leased.records()]));
        Ok(Linear { rows: leased.rows_at(matrix, level)?, bias })
    };
    let gate = gated.then(|| linear(Matrix::Gate)).transpose()?;
    Ok(Neurons { gate, up: linear(Matrix::Up)? })
}
