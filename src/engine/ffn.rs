//! The feed-forward branch: chunk by chunk, so that any cache that holds one chunk is enough.

use super::{Act, Branch, Engine, check_chunks};
use crate::error::Result;
use crate::kernels::Isa;
use crate::kernels::accumulate::Accumulator;
use crate::kernels::activation::{apply, combine};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project};
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
        for chunk in range {
            self.ffn_chunk(layer, chunk, &inputs, &mut sum)?;
            match chunks {
                Some(_) => partials.extend(sum.take_chunk()),
                None => sum.close_chunk(),
            }
        }
        Ok(if chunks.is_some() { Branch::Partials(partials) } else { Branch::Whole(sum.finish()) })
    }

    fn ffn_chunk(&mut self, layer: usize, chunk: usize, inputs: &Inputs, sum: &mut Accumulator) -> Result<()> {
        let first = chunk * CHUNK;
        let records = CHUNK.min(self.arch.ffn - first);
        let Engine { arch, options, isa, pool, weights, layers, .. } = self;
        let leased = weights.lease(Some(layer), arch.ffn_matrices(), options.levels.ffn, first, records)?;
        let (isa, vectors) = (*isa, &layers[layer]);
        let biased = |matrix: Matrix| -> Result<Panel> {
            let mut out = projected(isa, &leased.rows(matrix)?, inputs);
            if let Some(bias) = vectors.bias(matrix) {
                out.add_bias(&bias[first..first + records]);
            }
            Ok(out)
        };
        // One hand-over to the pool for the chunk: each costs ten microseconds, a third of what a chunk takes.
        pool.install(|| {
            let mut h = biased(if arch.gated { Matrix::Gate } else { Matrix::Up })?;
            match arch.gated {
                true => combine(isa, arch.activation, h.values_mut(), biased(Matrix::Up)?.values_mut()),
                false => apply(isa, arch.activation, h.values_mut()),
            }
            sum.add(isa, &leased.rows(Matrix::Down)?, &h);
            Ok(())
        })
    }
}

fn projected(isa: Isa, rows: &Rows, inputs: &Inputs) -> Panel {
    let mut out = Panel::new(rows.count, inputs.count);
    project(isa, rows, inputs, &mut out);
    out
}
