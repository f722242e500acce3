//! The feed-forward branch: chunk by chunk, so that any cache that holds one chunk is enough.

use super::weights::Leased;
use super::{Act, Branch, Engine, check_chunks, together};
use crate::error::Result;
use crate::kernels::accumulate::{Accumulator, Step};
use crate::kernels::activation::{apply, combine};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project_all};
use crate::quant::Rows;
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

    fn ffn_branch(&mut self, layer: usize, x: &[f32], chunks: Option<Range<usize>>) -> Result<Branch> {
        let count = self.check_rows(x)?;
        let level = self.options.levels.ffn;
        let vectors = self.layer(layer)?;
        let inputs = self.normed(x, &vectors.norm_ffn, level);
        let mut sum =
            Accumulator::new(count, self.arch.hidden, vectors.bias(Matrix::Down), self.options.act == Act::Int8);
        let range = check_chunks(chunks.clone(), self.arch.ffn.div_ceil(CHUNK), "FFN chunks")?;
        let mut partials = Vec::new();
        let mut chunk = range.start;
        while chunk < range.end {
            let records = chunk * CHUNK..self.arch.ffn.min(range.end * CHUNK);
            chunk += self.ffn_chunks(layer, records, chunks.is_some(), &inputs, &mut sum)?;
            if chunks.is_some() {
                partials.extend(sum.take_chunk());
            }
        }
        Ok(if chunks.is_some() { Branch::Partials(partials) } else { Branch::Whole(sum.finish()) })
    }

    /// Some of the chunks from the first record on; returns how many. Where partial sums are wanted it is one, left open.
    fn ffn_chunks(
        &mut self,
        layer: usize,
        records: Range<usize>,
        partial: bool,
        inputs: &Inputs,
        sum: &mut Accumulator,
    ) -> Result<usize> {
        let Engine { arch, options, isa, pool, weights, layers, .. } = self;
        let most = if partial { 1 } else { together(inputs.count) };
        let leased = weights.lease_run(Some(layer), arch.ffn_matrices(), options.levels.ffn, records.clone(), most)?;
        let (isa, vectors) = (*isa, &layers[layer]);
        let gate = if arch.gated { Matrix::Gate } else { Matrix::Up };
        let (gates, ups) = (rows(&leased, gate)?, if arch.gated { rows(&leased, Matrix::Up)? } else { vec![] });
        let biased = |matrix: Matrix, panels: &mut [Panel]| {
            let Some(bias) = vectors.bias(matrix) else { return };
            let bias = bias[records.clone()].chunks(CHUNK);
            panels.iter_mut().zip(bias).for_each(|(panel, bias)| panel.add_bias(bias));
        };
        // Two meetings of the pool: each costs microseconds, a chunk takes some tens.
        pool.install(|| {
            let (mut h, mut up) = (panels(&gates, inputs.count), panels(&ups, inputs.count));
            project_all(isa, inputs, gates.iter().chain(&ups).zip(h.iter_mut().chain(&mut up)));
            biased(gate, &mut h);
            biased(Matrix::Up, &mut up);
            for (i, h) in h.iter_mut().enumerate() {
                match up.get_mut(i) {
                    Some(up) => combine(isa, arch.activation, h.values_mut(), up.values_mut()),
                    None => apply(isa, arch.activation, h.values_mut()),
                }
            }
            let downs = rows(&leased, Matrix::Down)?.into_iter().zip(&h);
            sum.add_all(isa, downs.map(|(rows, factors)| Step { rows, factors, closes: !partial }).collect());
            Ok(leased.len())
        })
    }
}

/// One matrix of all leased chunks.
fn rows(leased: &[Leased], matrix: Matrix) -> Result<Vec<Rows<'_>>> {
    leased.iter().map(|leased| leased.rows(matrix)).collect()
}

fn panels(rows: &[Rows], count: usize) -> Vec<Panel> {
    rows.iter().map(|rows| Panel::new(rows.count, count)).collect()
}
