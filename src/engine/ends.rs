//! Where tokens become rows and rows become logits.

use super::{Engine, together};
use crate::error::{Error, Result};
use crate::kernels::panel::Panel;
use crate::kernels::project::project_all;
use crate::quant::values;
use crate::types::{BLOCK, Matrix};

impl Engine {
    /// Embedding rows `[N, hidden]` of tokens.
    ///
    /// # Errors
    /// `Error::Usage` naming a token outside the vocabulary; those of reading the store.
    pub fn embed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.timed(self.arch.layers, |engine| engine.embed_rows(tokens))
    }

    fn embed_rows(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; tokens.len() * self.arch.hidden];
        for (token, row) in tokens.iter().zip(out.chunks_exact_mut(self.arch.hidden)) {
            self.embed_row(*token as usize, row)?;
        }
        Ok(out)
    }

    fn embed_row(&mut self, token: usize, out: &mut [f32]) -> Result<()> {
        if token >= self.arch.vocab {
            return Err(Error::usage(format!("token {token} lies outside the vocabulary of {}", self.arch.vocab)));
        }
        let level = self.options.levels.embed;
        let leased = self.weights.lease_row(level, token)?;
        let rows = leased.rows(Matrix::Embed)?;
        let record = rows.record(0);
        let mut buffer = [0.0; BLOCK];
        for (block, part) in out.chunks_mut(BLOCK).enumerate() {
            values(&rows.coding, level, &record, block, &mut buffer);
            part.copy_from_slice(&buffer[..part.len()]);
        }
        Ok(())
    }

    /// Logits `[N, vocab]` of rows `x [N, hidden]` before the final norm.
    ///
    /// # Errors
    /// `Error::Usage` for shapes; those of reading the store.
    pub fn head(&mut self, x: &[f32]) -> Result<Vec<f32>> {
        self.timed(self.arch.layers, |engine| engine.pooled(x.len(), |engine| engine.logits(x)))
    }

    fn logits(&mut self, x: &[f32]) -> Result<Vec<f32>> {
        let count = self.check_rows(x)?;
        let level = self.options.levels.head;
        let inputs = self.normed(x, &self.norm_final, level);
        let Engine { arch, isa, pool, weights, .. } = self;
        let mut out = vec![0.0; arch.vocab * count];
        let mut first = 0;
        while first < arch.vocab {
            let matrix = arch.head_matrix();
            let leased = weights.lease_run(None, &[matrix], level, first..arch.vocab, together(count))?;
            let rows = leased.iter().map(|leased| leased.rows(matrix)).collect::<Result<Vec<_>>>()?;
            let mut panels: Vec<Panel> = rows.iter().map(|rows| Panel::new(rows.records, count)).collect();
            pool.install(|| project_all(*isa, &inputs, rows.iter().zip(&mut panels).map(|job| [job])));
            for panel in panels {
                panel.put_rows(&mut out, arch.vocab, first);
                first += panel.records();
            }
        }
        Ok(out)
    }
}
