//! The feed-forward branch: chunk by chunk, so that any cache that holds one chunk is enough.

use super::sum::{BranchSum, Team};
use super::weights::Leased;
use super::{Act, Branch, Engine, LayerVectors, check_chunks, together};
use crate::config::Architecture;
use crate::error::Result;
use crate::kernels::Isa;
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::activation::{apply, combine};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project_all};
use crate::types::{CHUNK, Matrix};
use std::ops::Range;

impl Engine {
    /// FFN of rows `x [N, hidden]` before the norm; `chunks` counts runs of 256 neurons.
    ///
    /// # Errors
    /// `Error::Usage` for shapes and ranges; those of reading the store.
    pub fn ffn(&mut self, layer: usize, x: &[f32], chunks: Option<Range<usize>>) -> Result<Branch> {
        self.timed(layer, |engine| engine.pooled(x.len(), |engine| engine.ffn_branch(layer, x, chunks)))
    }

    pub(super) fn ffn_branch(&mut self, layer: usize, x: &[f32], chunks: Option<Range<usize>>) -> Result<Branch> {
        let count = self.check_rows(x)?;
        let vectors = self.layer(layer)?;
        let inputs = self.normed(x, &vectors.norm_ffn, self.options.levels.ffn);
        let range = check_chunks(chunks.clone(), self.arch.ffn.div_ceil(CHUNK), "FFN chunks")?;
        let mut sum = BranchSum::new(chunks.is_some(), count, self.arch.hidden, vectors.bias(Matrix::Down));
        let (mut first, end) = (range.start * CHUNK, self.arch.ffn.min(range.end * CHUNK));
        while first < end {
            let chunks = self.ffn_chunks(layer, first..end, &inputs)?;
            first += chunks.len() * CHUNK;
            self.pool.install(|| sum.take(&chunks));
        }
        Ok(sum.finish())
    }

    /// Sums of some of the chunks, from the first record on: those that are computed together.
    fn ffn_chunks(&mut self, layer: usize, records: Range<usize>, inputs: &Inputs) -> Result<Vec<ChunkSum>> {
        let Engine { arch, options, isa, pool, weights, layers, .. } = self;
        let (matrices, most) = (arch.ffn_matrices(), together(inputs.count));
        let leased = weights.lease_run(Some(layer), matrices, options.levels.ffn, records.clone(), most)?;
        let (team, int8) = (Team(pool), options.act == Act::Int8);
        let ffn = Ffn { team, isa: *isa, arch, vectors: &layers[layer], inputs, int8 };
        let firsts = records.step_by(CHUNK);
        team.each(firsts.zip(&leased).collect(), |(first, leased), threads| ffn.chunk(leased, first, threads))
    }
}

/// What all chunks of a call have in common.
struct Ffn<'a> {
    team: Team<'a>,
    isa: Isa,
    arch: &'a Architecture,
    vectors: &'a LayerVectors,
    inputs: &'a Inputs,
    int8: bool,
}

impl Ffn<'_> {
    /// The sum of one chunk, from record `first` on, computed by so many threads.
    fn chunk(&self, leased: &Leased, first: usize, threads: usize) -> Result<ChunkSum> {
        let h = self.hidden(leased, first)?;
        let mut sum = ChunkSum::new(self.inputs.count, self.arch.hidden);
        let rows = leased.rows(Matrix::Down)?;
        self.team.install(|| sum.add(self.isa, self.int8, &rows, &h, threads));
        Ok(sum)
    }

    /// What the chunk's neurons give: `activation(gate) * up`, or `activation(up)`.
    fn hidden(&self, leased: &Leased, first: usize) -> Result<Panel> {
        let Ffn { isa, arch, inputs, .. } = self;
        let up = leased.rows(Matrix::Up)?;
        let mut h = Panel::new(leased.count(), inputs.count);
        if !arch.gated {
            self.team.install(|| project_all(*isa, inputs, [[(&up, &mut h)]]));
            self.add_bias(Matrix::Up, first, &mut h);
            self.team.install(|| apply(*isa, arch.activation, h.values_mut()));
            return Ok(h);
        }
        let (gate, mut ups) = (leased.rows(Matrix::Gate)?, h.clone());
        self.team.install(|| project_all(*isa, inputs, [[(&gate, &mut h), (&up, &mut ups)]]));
        self.add_bias(Matrix::Gate, first, &mut h);
        self.add_bias(Matrix::Up, first, &mut ups);
        self.team.install(|| combine(*isa, arch.activation, h.values_mut(), ups.values_mut()));
        Ok(h)
    }

    fn add_bias(&self, matrix: Matrix, first: usize, panel: &mut Panel) {
        if let Some(bias) = self.vectors.bias(matrix) {
            panel.add_bias(&bias[first..first + panel.records()]);
        }
    }
}
