//! The feed-forward branch of tokens that use some of the neurons: scores, the active set, and its neurons' sum, chunk by
//! chunk and band by band (docs/format.md, 6).

use super::ffn::neurons;
use super::score::Scores;
use super::sum::BranchSum;
use super::threads::{Share, each_then, together};
use super::vectors::LayerVectors;
use super::walk::{Part, WalkId};
use super::weights::Leased;
use super::{Branch, Engine, busy, check_chunks};
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::neurons::{values, values_known};
use crate::kernels::project::Inputs;
use crate::select::{Band, choose};
use crate::types::{CHUNK, DECODE_BATCH, Matrix, Plane};
use std::ops::Range;

impl Engine {
    /// What a ranking leaves of every token's neurons. The set of a token rests on all chunks, whichever are asked for.
    pub(super) fn ranked(
        &mut self,
        layer: usize,
        x: &[f32],
        chunks: Option<Range<usize>>,
        positions: &[u32],
    ) -> Result<Branch> {
        check_columns(x.len() / self.arch.hidden)?;
        let range = check_chunks(chunks.clone(), self.arch.ffn.div_ceil(CHUNK), "FFN chunks")?;
        let inputs = self.ranked_inputs(layer, x)?;
        let scores = self.score(layer, &inputs, positions, true)?;
        let cut = self.recipe.cut(layer).ok_or(Error::Internal("a layer whose ranking is not cut"))?;
        choose(Some(&self.cpu), &scores.rows, self.arch.ffn, cut, &mut self.active);
        let branch = self.active_sum(layer, &inputs, &scores, &range, chunks.is_some())?;
        self.counted.ranked(&self.touched, &self.active, &range, layer, &scores);
        self.room.extend(scores.into_room());
        Ok(branch)
    }

    /// The sum of the active neurons of some chunks.
    pub(super) fn active_sum(
        &mut self,
        layer: usize,
        inputs: &Inputs,
        scores: &Scores,
        range: &Range<usize>,
        partial: bool,
    ) -> Result<Branch> {
        let Engine { arch, cpu, weights, vectors, active, .. } = self;
        let vectors = vectors.layer(layer)?;
        let mut sum = BranchSum::new(partial, inputs.columns, arch.hidden, vectors.bias(Matrix::Down));
        let (chunk, mut next) = (Chunk { arch, inputs, scores, vectors }, range.start);
        let numbers = inputs.columns * arch.hidden;
        let busy = busy(active, range.clone());
        // Gate and up of what the scan computed are not read again.
        let known = |matrix: Matrix| scores.level.filter(|_| matrix != Matrix::Down);
        let wanted = |chunk: usize, matrix: Matrix, plane: Plane| active.reading(chunk, plane, known(matrix));
        weights.visit_chosen(WalkId::Layer(layer, Part::Rest), &busy, together(inputs.columns), wanted, |run| {
            let one = |leased: &Leased, share: Share| {
                let at = leased.records().start / CHUNK;
                Ok((at, chunk.sum(leased, &active.chunks[at], share)?))
            };
            each_then(cpu, run.iter().collect(), size_of::<f32>() * numbers, one, |(at, chunk)| {
                sum.pass_over(at - next, numbers);
                sum.take_one(cpu, &chunk);
                next = at + 1;
            })
        })?;
        sum.pass_over(range.end - next, numbers);
        Ok(sum.finish())
    }
}

/// What the sums of all chunks share.
struct Chunk<'a> {
    arch: &'a Architecture,
    inputs: &'a Inputs,
    scores: &'a Scores,
    vectors: &'a LayerVectors,
}

impl Chunk<'_> {
    /// The sum of a chunk's bands, from the finest on.
    fn sum(&self, leased: &Leased, bands: &[Band; 3], share: Share) -> Result<ChunkSum> {
        let mut sum = ChunkSum::new(self.inputs.columns, self.arch.hidden);
        for band in bands.iter().filter(|band| !band.ids.is_empty()) {
            self.add(leased, band, &mut sum, share)?;
        }
        Ok(sum)
    }

    fn add(&self, leased: &Leased, band: &Band, sum: &mut ChunkSum, share: Share) -> Result<()> {
        let (Chunk { arch, inputs, scores, vectors }, cpu) = (self, share.cpu);
        let down = leased.rows_at(Matrix::Down, band.level)?.at(&band.ids);
        let index = leased.records().start / CHUNK;
        let mut h = match scores.taken(band.level, index, &band.ids) {
            Some(known) => known,
            None => {
                let neurons = neurons(leased, vectors, arch.gated, band.level)?.at(&band.ids);
                match scores.kept(band.level, index) {
                    Some(kept) => values_known(cpu, inputs, arch.activation, &neurons, kept, &band.ids),
                    None => values(cpu, inputs, arch.activation, &neurons),
                }
            }
        };
        // A single token uses each of them.
        if inputs.columns > 1 {
            h.mask(&band.used);
        }
        sum.add(cpu, &down, &h, share.sums);
        Ok(())
    }
}

/// Refuses more tokens than a set has bits for.
pub(super) fn check_columns(columns: usize) -> Result<()> {
    match columns <= DECODE_BATCH {
        true => Ok(()),
        false => Err(Error::usage(format!(
            "{columns} decode tokens in a call of a sparse recipe; {DECODE_BATCH} are the most: cut the \
                batch into calls of so many"
        ))),
    }
}
