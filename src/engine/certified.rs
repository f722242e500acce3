//! The feed-forward branch of tokens that skip neurons which coarse planes prove to be off at the level of the recipe: the
//! bits of all neurons at it.

use super::score::Scores;
use super::sparse::check_columns;
use super::threads::{each, together};
use super::vectors::LayerVectors;
use super::walk::{Part, WalkId};
use super::weights::Leased;
use super::{Branch, Engine, check_chunks, parts};
use crate::config::Architecture;
use crate::error::Result;
use crate::kernels::Cpu;
use crate::kernels::project::Inputs;
use crate::select::{Activated, ActiveSet, Prover};
use crate::types::{CHUNK, Level};
use std::ops::Range;

impl Engine {
    /// What is not proven to be off. What is known of a token rests on that token alone.
    pub(super) fn certified(
        &mut self,
        layer: usize,
        x: &[f32],
        chunks: Option<Range<usize>>,
        level: Level,
    ) -> Result<Branch> {
        check_columns(x.len() / self.arch.hidden)?;
        let range = check_chunks(chunks.clone(), self.arch.ffn.div_ceil(CHUNK), "FFN chunks")?;
        let rows = self.normed_rows(x, &self.vectors.layer(layer)?.norm_ffn);
        let coding = self.weights.store().manifest.encoding.coding;
        let prover = Prover::new(&self.cpu, &coding, level, &rows, self.arch.hidden);
        let inputs = Inputs::new(&self.cpu, &rows, self.arch.hidden, &[level]);
        let mut proofs = vec![];
        self.active = ActiveSet::all(inputs.columns, self.arch.ffn, level);
        for below in parts::proofs(&self.arch, level) {
            proofs.push((below, used(&self.active, &range)));
            let first = proofs.len() == 1;
            self.prove(layer, &prover, (below, first), &range)?;
        }
        let branch = self.active_sum(layer, &inputs, &Scores::none(), &range, chunks.is_some())?;
        let (used, tokens) = (used(&self.active, &range), inputs.columns as u64);
        self.counted.certified(&self.touched, &proofs, (level, used), layer, tokens, range.start == 0);
        Ok(branch)
    }

    /// Takes the neurons out of the active set that a coarser level proves to be off.
    fn prove(
        &mut self,
        layer: usize,
        prover: &Prover,
        (below, first): (Level, bool),
        range: &Range<usize>,
    ) -> Result<()> {
        let Engine { arch, cpu, weights, vectors, active, .. } = self;
        let vectors = vectors.layer(layer)?;
        let busy = super::busy(active, range.clone());
        let walk = WalkId::Layer(layer, Part::Scan(below));
        let mut found = vec![];
        let proven = |run: &[Leased]| {
            found.extend(each(cpu, run.iter().collect(), |leased, share| {
                let chunk = leased.records().start / CHUNK;
                let band = active.chunks[chunk].iter().find(|band| !band.ids.is_empty());
                let ids = band.map_or(&[][..], |band| &band.ids);
                Ok((chunk, off((prover, share.cpu), leased, vectors, arch, below, ids)?))
            })?);
            Ok(())
        };
        match first {
            // All of it is read, and ahead.
            true => weights.visit(walk, busy.iter().copied(), together(active.columns), proven)?,
            false => {
                let wanted = |chunk: usize, _, plane| active.reading(chunk, plane, None);
                weights.visit_chosen(walk, &busy, together(active.columns), wanted, proven)?;
            }
        }
        for (chunk, off) in found {
            active.chunks[chunk].iter_mut().filter(|band| !band.ids.is_empty()).for_each(|band| band.leave_out(&off));
        }
        Ok(())
    }
}

/// Per neuron a bit for every token for which it is proven off.
fn off(
    (prover, cpu): (&Prover, &Cpu),
    leased: &Leased,
    vectors: &LayerVectors,
    arch: &Architecture,
    below: Level,
    ids: &[u32],
) -> Result<Vec<u32>> {
    let all = arch.ahead_matrices();
    let biases = |matrix| {
        let bias = vectors.bias(matrix).map(|bias| &bias[leased.records()]);
        bias.map(|bias| ids.iter().map(|id| bias[*id as usize]).collect::<Vec<f32>>())
    };
    let (bias, others) = (biases(all[0]), all.get(1).and_then(|other| biases(*other)));
    let rows = leased.rows_at(all[0], below)?;
    // Neighbours are read faster than what is listed.
    let rows = if ids.len() == rows.records { rows } else { rows.at(ids) };
    Ok(prover.off(cpu, &Activated { rows, bias: bias.as_deref(), others: others.as_deref() }))
}

/// How many neurons of some chunks all tokens use together.
fn used(active: &ActiveSet, range: &Range<usize>) -> u64 {
    let bands = active.chunks[range.clone()].iter().flatten();
    bands.flat_map(|band| &band.used).map(|used| u64::from(used.count_ones())).sum()
}
