//! Where tokens become rows and rows become logits.

use super::Engine;
use super::room::EMBEDDINGS;
use super::threads::together;
use super::walk::WalkId;
use crate::error::{Error, Result};
use crate::kernels::panel::Panel;
use crate::kernels::project::project_all;
use crate::quant::{Rows, values};
use crate::types::{BLOCK, CHUNK, Matrix};

impl Engine {
    /// Embedding rows `[N, hidden]` of tokens.
    ///
    /// # Errors
    /// `Error::Usage` naming a token outside the vocabulary; those of reading the store.
    pub fn embed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.timed(self.arch.layers, |engine| engine.embed_rows(tokens))
    }

    fn embed_rows(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let Engine { arch, weights, .. } = self;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= arch.vocab) {
            return Err(Error::usage(format!("token {token} lies outside the vocabulary of {}", arch.vocab)));
        }
        let mut out = vec![0.0; tokens.len() * arch.hidden];
        for (tokens, out) in tokens.chunks(EMBEDDINGS).zip(out.chunks_mut(EMBEDDINGS * arch.hidden)) {
            let leased = weights.lease_embeddings(tokens)?;
            for (leased, row) in leased.iter().zip(out.chunks_exact_mut(arch.hidden)) {
                decode(&leased.rows(Matrix::Embed)?, row);
            }
        }
        Ok(out)
    }

    /// Logits `[N, vocab]` of rows `x [N, hidden]` before the final norm.
    ///
    /// # Errors
    /// `Error::Usage` for shapes; those of reading the store.
    pub fn head(&mut self, x: &[f32]) -> Result<Vec<f32>> {
        let count = self.check_rows(x)?;
        self.part(self.arch.layers, count, |engine| engine.logits(x, count))
    }

    fn logits(&mut self, x: &[f32], count: usize) -> Result<Vec<f32>> {
        let inputs = self.normed(x, self.vectors.norm_final(), &[self.recipe.head]);
        let Engine { arch, cpu, weights, .. } = self;
        let (matrix, mut out) = (arch.head_matrix(), vec![0.0; arch.vocab * count]);
        let chunks = 0..arch.vocab.div_ceil(CHUNK);
        weights.visit(WalkId::Head, chunks, together(count), |run| {
            let rows = run.iter().map(|leased| leased.rows(matrix)).collect::<Result<Vec<_>>>()?;
            let mut panels: Vec<Panel> = rows.iter().map(|rows| Panel::new(rows.records, count)).collect();
            project_all(cpu, &inputs, rows.iter().zip(&mut panels).map(|job| [job]));
            let to = run.iter().zip(&panels);
            to.for_each(|(leased, panel)| panel.put_rows(&mut out, arch.vocab, leased.records().start));
            Ok(())
        })?;
        Ok(out)
    }
}

/// The values of a single record.
fn decode(rows: &Rows, out: &mut [f32]) {
    let record = rows.record(0);
    let mut buffer = [0.0; BLOCK];
    for (block, part) in out.chunks_mut(BLOCK).enumerate() {
        values(&rows.coding, rows.level, &record, block, &mut buffer);
        part.copy_from_slice(&buffer[..part.len()]);
    }
}
