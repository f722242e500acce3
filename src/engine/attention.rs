//! The attention branch over a range of KV-head groups (what `o` sums apart; docs/design.md, 5b).

use super::sum::BranchSum;
use super::threads::{each, pooled, together};
use super::walk::{Part, WalkId};
use super::weights::Leased;
use super::{Branch, Engine, check_chunks};
use crate::error::{Error, Result};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::attention::{Heads, attend};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project_all};
use crate::kernels::rope::Rotation;
use crate::kv::{HeadView, KvCache, SequenceId};
use crate::quant::Rows;
use crate::types::{CHUNK, LayerId, Matrix, Tokens};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

impl Engine {
    /// Attention of rows `x [N, hidden]` before the norm; appends their K and V to `kv`, which is locked between the
    /// reads of weights only.
    ///
    /// # Errors
    /// `Error::Usage` for shapes, ranges and positions; those of reading the store. Behind an error the sequences may
    /// hold positions in some layers only: truncate them.
    pub fn attention(
        &mut self,
        layer: usize,
        x: &[f32],
        kv: &Mutex<KvCache>,
        tokens: Tokens,
        groups: Option<Range<usize>>,
    ) -> Result<Branch> {
        let count = self.check_rows(x)?;
        let cpu = self.cpu.clone();
        self.timed(layer, |engine| pooled(&cpu, count, || engine.attention_branch(layer, x, kv, tokens, groups)))
    }

    pub(super) fn attention_branch(
        &mut self,
        layer: usize,
        x: &[f32],
        kv: &Mutex<KvCache>,
        tokens: Tokens,
        groups: Option<Range<usize>>,
    ) -> Result<Branch> {
        let count = x.len() / self.arch.hidden;
        if tokens.sequences.len() != count || tokens.positions.len() != count {
            return Err(Error::usage(format!("{count} rows need as many sequences and positions")));
        }
        let range = check_chunks(groups.clone(), self.arch.kv_heads, "KV-head groups")?;
        let inputs = self.normed(x, &self.vectors.layer(layer)?.norm_attn, &[self.recipe.attn]);
        let mixed = self.mix(layer, &inputs, kv, tokens, &range)?;
        self.output(layer, &mixed, count, &range, groups.is_some())
    }

    /// Query heads per KV head.
    fn group(&self) -> usize {
        self.arch.heads / self.arch.kv_heads
    }

    /// q, k, v, rope, append, attend: `[N, range * group * head_dim]`.
    fn mix(
        &mut self,
        layer: usize,
        inputs: &Inputs,
        kv: &Mutex<KvCache>,
        tokens: Tokens,
        range: &Range<usize>,
    ) -> Result<Vec<f32>> {
        let (dim, group) = (self.arch.head_dim, self.group());
        let per_kv = range.start * dim..range.end * dim;
        let mut q = self.project_rows(layer, Matrix::Q, inputs, per_kv.start * group..per_kv.end * group)?;
        let mut k = self.project_rows(layer, Matrix::K, inputs, per_kv.clone())?;
        let v = self.project_rows(layer, Matrix::V, inputs, per_kv)?;
        // What panicked while holding the lock left lengths that truncation evens out.
        let mut kv = kv.lock().unwrap_or_else(PoisonError::into_inner);
        rotate(&kv, tokens, range.len() * dim, &mut q, &mut k)?;
        append(&mut kv, LayerId(layer as u32), tokens, range, &k, &v)?;
        let heads = Heads { kv_heads: range.len(), group, head_dim: dim, scale: self.arch.attention_scale };
        let views = views(&kv, LayerId(layer as u32), tokens, range)?;
        let mut out = vec![0.0; q.len()];
        let blocks = |token: usize, head: usize| views[token * heads.kv_heads + head].blocks();
        self.cpu.run(|| attend(self.cpu.isa, &heads, &q, tokens, blocks, &mut out));
        Ok(out)
    }

    /// Rows of a projection for all tokens, `[N, rows]`, bias added.
    fn project_rows(&mut self, layer: usize, matrix: Matrix, inputs: &Inputs, rows: Range<usize>) -> Result<Vec<f32>> {
        let Engine { cpu, weights, vectors, .. } = self;
        let (bias, mut out) = (vectors.layer(layer)?.bias(matrix), vec![0.0; rows.len() * inputs.columns]);
        weights.visit(
            WalkId::Layer(layer, Part::Attention(matrix)),
            chunks(&rows),
            together(inputs.columns),
            |run| {
                let parts = cuts(run, matrix, &rows)?;
                let mut panels: Vec<Panel> =
                    parts.iter().map(|(_, part)| Panel::new(part.records, inputs.columns)).collect();
                project_all(cpu, inputs, parts.iter().map(|(_, part)| part).zip(&mut panels).map(|job| [job]));
                for ((at, part), panel) in parts.iter().zip(&mut panels) {
                    if let Some(bias) = bias {
                        panel.add_bias(&bias[*at..at + part.records]);
                    }
                    panel.put_rows(&mut out, rows.len(), at - rows.start);
                }
                Ok(())
            },
        )?;
        Ok(out)
    }

    /// The output projection of mixed values `[N, range * group * head_dim]`: a sum per KV-head group.
    fn output(
        &mut self,
        layer: usize,
        mixed: &[f32],
        count: usize,
        range: &Range<usize>,
        partial: bool,
    ) -> Result<Branch> {
        let group = self.group() * self.arch.head_dim;
        let Engine { arch, cpu, weights, vectors, .. } = self;
        let rows = range.start * group..range.end * group;
        let mut total = BranchSum::new(partial, count, arch.hidden, vectors.layer(layer)?.bias(Matrix::O));
        // The sum of a group that goes on in the next chunk.
        let mut open = None;
        weights.visit(WalkId::Layer(layer, Part::Attention(Matrix::O)), chunks(&rows), together(count), |run| {
            let parts = cuts(run, Matrix::O, &rows)?;
            let pieces: Vec<(usize, Rows)> = parts.iter().flat_map(|(at, part)| pieces(*at, part, group)).collect();
            let groups = pieces.chunk_by(|(a, _), (b, _)| a / group == b / group);
            let groups = groups.map(|group| (open.take().unwrap_or_else(|| ChunkSum::new(count, arch.hidden)), group));
            let mut sums = each(cpu, groups.collect(), |(mut sum, group), threads| {
                for (at, part) in group {
                    let of_mixed = at - rows.start..at - rows.start + part.records;
                    sum.add(cpu, part, &Panel::of_rows(mixed, rows.len(), of_mixed), threads);
                }
                Ok(sum)
            })?;
            let end = run.last().map_or(rows.end, |last| last.records().end.min(rows.end));
            if !end.is_multiple_of(group) {
                open = sums.pop();
            }
            total.take(cpu, &sums);
            Ok(())
        })?;
        Ok(total.finish())
    }
}

/// The chunks that hold some rows.
fn chunks(rows: &Range<usize>) -> Range<usize> {
    rows.start / CHUNK..rows.end.div_ceil(CHUNK)
}

/// What leased chunks hold of `rows`: the first record of each part, and its records.
fn cuts<'a>(leased: &'a [Leased], matrix: Matrix, rows: &Range<usize>) -> Result<Vec<(usize, Rows<'a>)>> {
    let cut = |leased: &'a Leased| {
        let Range { start, end } = leased.records();
        let (from, to) = (rows.start.max(start), rows.end.min(end));
        Ok((from, leased.rows(matrix)?.slice(from - start, to - start)))
    };
    leased.iter().map(cut).collect()
}

/// Rows from record `first` on, cut at multiples of `chunk`: the first record of each piece, and its records.
fn pieces<'a>(first: usize, rows: &Rows<'a>, chunk: usize) -> impl Iterator<Item = (usize, Rows<'a>)> {
    let end = first + rows.records;
    let mut start = first;
    std::iter::from_fn(move || {
        let (from, to) = (start, end.min((start / chunk + 1) * chunk));
        start = to;
        (from < to).then(|| (from, rows.slice(from - first, to - first)))
    })
}

fn rotate(kv: &KvCache, tokens: Tokens, kv_width: usize, q: &mut [f32], k: &mut [f32]) -> Result<()> {
    let q_width = q.len() / tokens.positions.len();
    for (n, (sequence, position)) in tokens.sequences.iter().zip(tokens.positions).enumerate() {
        let rope = kv.rope(SequenceId(*sequence))?;
        let rotation = Rotation::new(&rope.inv_freq, rope.attention_factor, *position);
        rotation.apply(&mut q[n * q_width..(n + 1) * q_width]);
        rotation.apply(&mut k[n * kv_width..(n + 1) * kv_width]);
    }
    Ok(())
}

fn append(kv: &mut KvCache, layer: LayerId, tokens: Tokens, range: &Range<usize>, k: &[f32], v: &[f32]) -> Result<()> {
    let width = k.len() / tokens.positions.len();
    for (n, (sequence, position)) in tokens.sequences.iter().zip(tokens.positions).enumerate() {
        let row = n * width..(n + 1) * width;
        kv.append(layer, SequenceId(*sequence), range.clone(), *position as usize, &k[row.clone()], &v[row])?;
    }
    Ok(())
}

/// K and V of every token's sequence, `[N][heads]`.
fn views<'a>(kv: &'a KvCache, layer: LayerId, tokens: Tokens, range: &Range<usize>) -> Result<Vec<HeadView<'a>>> {
    let heads =
        |sequence: &u32| range.clone().map(|head| kv.read(layer, SequenceId(*sequence), head)).collect::<Vec<_>>();
    tokens.sequences.iter().flat_map(heads).collect()
}
