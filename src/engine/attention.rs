//! The attention branch over a range of KV-head groups (what `o` sums apart; docs/design.md, 5b).

use super::heads::{HeadSet, Records};
use super::sparse::check_columns;
use super::sum::BranchSum;
use super::threads::{Share, each_then, together};
use super::walk::{Part, WalkId};
use super::weights::{Leased, Weights};
use super::{Branch, Engine, check_chunks};
use crate::error::{Error, Result};
use crate::kernels::Cpu;
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::attention::{Heads, attend};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project_all};
use crate::kernels::rope::Rotation;
use crate::kv::{HeadView, KvCache, SequenceId};
use crate::quant::Rows;
use crate::types::{CHUNK, Kind, LayerId, Matrix, Plane, Tokens};
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
        self.part(layer, count, |engine| engine.attention_branch(layer, x, kv, tokens, groups))
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
        check_tokens(tokens, count)?;
        let range = check_chunks(groups.clone(), self.arch.kv_heads, "KV-head groups")?;
        let chooses = self.chooses(tokens.kind);
        if chooses {
            check_columns(count)?;
        }
        let inputs = self.normed(x, &self.vectors.layer(layer)?.norm_attn, &self.attention_levels(tokens.kind));
        let heads = self.heads_of(layer, &inputs, tokens.kind, &range)?;
        let ask = Ask { layer, range, heads, chooses };
        let mixed = self.mix(&ask, &inputs, kv, tokens)?;
        let branch = self.output(&ask, &mixed, count, groups.is_some())?;
        if tokens.kind == Kind::Decode {
            self.count_heads(layer, &ask.heads, count, &ask.range);
        }
        Ok(branch)
    }

    /// What every query head gives for rows `x [N, hidden]` before the norm: `[N, heads * head_dim]`, what `o` is multiplied
    /// with. Appends K and V to `kv`.
    ///
    /// # Errors
    /// As [`Engine::attention`].
    pub fn mixed(&mut self, layer: usize, x: &[f32], kv: &Mutex<KvCache>, tokens: Tokens) -> Result<Vec<f32>> {
        let count = self.check_rows(x)?;
        check_tokens(tokens, count)?;
        let inputs = self.normed(x, &self.vectors.layer(layer)?.norm_attn, &[self.recipe.attn]);
        let heads = HeadSet::all(0..self.arch.heads);
        let ask = Ask { layer, range: 0..self.arch.kv_heads, heads, chooses: self.chooses(tokens.kind) };
        self.part(layer, count, |engine| engine.mix(&ask, &inputs, kv, tokens))
    }

    /// Query heads per KV head.
    fn group(&self) -> usize {
        self.arch.heads / self.arch.kv_heads
    }

    /// q, k, v, rope, append, attend: `[N, heads * head_dim]` of the heads asked for.
    fn mix(&mut self, ask: &Ask, inputs: &Inputs, kv: &Mutex<KvCache>, tokens: Tokens) -> Result<Vec<f32>> {
        let (layer, dim, range) = (ask.layer, self.arch.head_dim, &ask.range);
        let all = HeadSet::all(range.clone());
        let mut q = self.project_rows(layer, Matrix::Q, inputs, ask.heads.records(dim), ask.chooses)?;
        let mut k = self.project_rows(layer, Matrix::K, inputs, all.records(dim), false)?;
        let v = self.project_rows(layer, Matrix::V, inputs, all.records(dim), false)?;
        // What panicked while holding the lock left lengths that truncation evens out.
        let mut kv = kv.lock().unwrap_or_else(PoisonError::into_inner);
        rotate(&kv, tokens, range.len() * dim, &mut q, &mut k)?;
        append(&mut kv, LayerId(layer as u32), tokens, range, &k, &v)?;
        let views = views(&kv, LayerId(layer as u32), tokens, range)?;
        let mut out = vec![0.0; q.len()];
        self.attend(ask, &views, &q, tokens, &mut out);
        ask.heads.mask(&mut out, dim);
        Ok(out)
    }

    /// Attention of the heads asked for. KV heads that as many of them read go together: a head's result rests on neither
    /// who else is there.
    fn attend(&self, ask: &Ask, views: &[HeadView], q: &[f32], tokens: Tokens, out: &mut [f32]) {
        let (Engine { arch, cpu, .. }, range) = (self, &ask.range);
        let (head_dim, width) = (arch.head_dim, ask.heads.records(arch.head_dim).len());
        for group in 1..=self.group() {
            let read: Vec<_> = ask.heads.by_kv(self.group()).filter(|(_, of)| of.len() == group).collect();
            if read.is_empty() {
                continue;
            }
            let heads = Heads { kv_heads: read.len(), group, head_dim, scale: arch.attention_scale };
            let view = |token: usize, at: usize| &views[token * range.len() + read[at].0 - range.start];
            let blocks = |token: usize, at: usize| view(token, at).blocks();
            if read.len() * heads.item() == width {
                return cpu.run(|| attend(cpu.isa, &heads, q, tokens, blocks, out));
            }
            let places = read.iter().map(|(_, of)| of.start * head_dim..of.end * head_dim);
            let some = gather(q, width, places.clone());
            let mut found = vec![0.0; some.len()];
            cpu.run(|| attend(cpu.isa, &heads, &some, tokens, blocks, &mut found));
            scatter(&found, out, width, places);
        }
    }

    /// Rows of a projection for all tokens, `[N, records]`, bias added.
    fn project_rows(
        &mut self,
        layer: usize,
        matrix: Matrix,
        inputs: &Inputs,
        records: Records,
        chosen: bool,
    ) -> Result<Vec<f32>> {
        let Engine { cpu, weights, vectors, .. } = self;
        let (bias, mut out) = (vectors.layer(layer)?.bias(matrix), vec![0.0; records.len() * inputs.columns]);
        let walk = WalkId::Layer(layer, Part::Attention(matrix));
        visit(weights, walk, records, together(inputs.columns), chosen, |run| {
            let parts: Vec<_> = run.iter().map(|leased| (leased, records.places(&leased.records()))).collect();
            let rows = parts.iter().map(|(leased, places)| Ok(pick(leased.rows(matrix)?, places)));
            let rows: Vec<Rows> = rows.collect::<Result<_>>()?;
            let mut panels: Vec<Panel> = rows.iter().map(|rows| Panel::new(rows.records, inputs.columns)).collect();
            project_all(cpu, inputs, rows.iter().zip(&mut panels).map(|job| [job]));
            for ((leased, places), panel) in parts.iter().zip(&mut panels) {
                let first = leased.records().start;
                if let Some(bias) = bias {
                    let of_places: Vec<f32> = places.iter().map(|place| bias[first + *place as usize]).collect();
                    panel.add_bias(&of_places);
                }
                panel.put_rows(&mut out, records.len(), records.before(first));
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// The output projection of mixed values `[N, heads * head_dim]`: a sum per KV-head group.
    fn output(&mut self, ask: &Ask, mixed: &[f32], count: usize, partial: bool) -> Result<Branch> {
        let (dim, group) = (self.arch.head_dim, self.group() * self.arch.head_dim);
        let Engine { arch, cpu, weights, vectors, .. } = self;
        let records = ask.heads.records(dim);
        let bias = vectors.layer(ask.layer)?.bias(Matrix::O);
        let mut total = Groups::new(BranchSum::new(partial, count, arch.hidden, bias), &ask.range, count * arch.hidden);
        let walk = WalkId::Layer(ask.layer, Part::Attention(Matrix::O));
        visit(weights, walk, records, together(count), ask.chooses, |run| {
            let portions: Vec<Portion> = run.iter().flat_map(|leased| portions(leased, records, group)).collect();
            let groups = portions.chunk_by(|a, b| a.group == b.group);
            let begun = groups.map(|of| (total.resume(cpu, of[0].group, || ChunkSum::new(count, arch.hidden)), of));
            let begun: Vec<(ChunkSum, &[Portion])> = begun.collect();
            let one = |(mut sum, of): (ChunkSum, &[Portion]), share: Share| {
                for Portion { leased, places, at, .. } in of {
                    let rows = pick(leased.rows(Matrix::O)?, places);
                    sum.add(cpu, &rows, &Panel::of_rows(mixed, records.len(), at.clone()), share.sums);
                }
                Ok((of[0].group, sum))
            };
            each_then(cpu, begun, size_of::<f32>() * count * arch.hidden, one, |(group, sum)| {
                total.take(cpu, group, sum)
            })
        })?;
        Ok(total.finish(cpu))
    }
}

/// What is asked of a layer's attention.
struct Ask {
    layer: usize,
    /// KV heads.
    range: Range<usize>,
    /// Query heads.
    heads: HeadSet,
    /// Whether what they need is known only now, rather than read ahead.
    chooses: bool,
}

/// Records of a leased chunk whose sum is made by one call: those of one KV-head group.
struct Portion<'a> {
    group: usize,
    leased: &'a Leased,
    /// In the chunk.
    places: Vec<u32>,
    /// Among the mixed values.
    at: Range<usize>,
}

/// A chunk's records cut where KV-head groups end, `group` records each.
fn portions<'a>(leased: &'a Leased, records: Records, group: usize) -> Vec<Portion<'a>> {
    let Range { start, end } = leased.records();
    let portion = |of: usize| {
        let own = start.max(of * group)..end.min((of + 1) * group);
        let places: Vec<u32> = records.places(&own).iter().map(|place| place + (own.start - start) as u32).collect();
        let first = records.before(own.start);
        Portion { group: of, leased, at: first..first + places.len(), places }
    };
    (start / group..end.div_ceil(group)).map(portion).filter(|portion| !portion.places.is_empty()).collect()
}

/// The records at some places, rising; neighbours as a run.
fn pick<'a>(rows: Rows<'a>, places: &'a [u32]) -> Rows<'a> {
    match places {
        [first, .., last] if (last - first) as usize + 1 != places.len() => rows.at(places),
        _ => {
            let first = places.first().map_or(0, |first| *first as usize);
            rows.slice(first, first + places.len())
        }
    }
}

/// Leases the chunks that hold some records: whole, or as far as the records are in them, which are then read now.
fn visit(
    weights: &mut Weights,
    walk: WalkId,
    records: Records,
    most: usize,
    chosen: bool,
    each: impl FnMut(&[Leased]) -> Result<()>,
) -> Result<()> {
    let chunks = records.chunks();
    let wanted = |chunk: usize, _: Matrix, _: Plane| records.places(&(chunk * CHUNK..(chunk + 1) * CHUNK));
    match chosen {
        true => weights.visit_chosen(walk, &chunks, most, wanted, each),
        false => weights.visit(walk, chunks.iter().copied(), most, each),
    }
}

/// Sums of KV-head groups on their way to the branch: the last may go on in the next chunk.
struct Groups {
    sum: BranchSum,
    open: Option<(usize, ChunkSum)>,
    /// The group that the sum takes next.
    next: usize,
    end: usize,
    /// Numbers of a group.
    numbers: usize,
}

impl Groups {
    fn new(sum: BranchSum, range: &Range<usize>, numbers: usize) -> Groups {
        Groups { sum, open: None, next: range.start, end: range.end, numbers }
    }

    /// The sum of a group so far; what is of another is ended.
    fn resume(&mut self, cpu: &Cpu, group: usize, begin: impl Fn() -> ChunkSum) -> ChunkSum {
        match self.open.take() {
            Some((open, sum)) if open == group => sum,
            Some((open, sum)) => {
                self.add(cpu, open, &sum);
                begin()
            }
            None => begin(),
        }
    }

    /// Takes the next group in order.
    fn take(&mut self, cpu: &Cpu, group: usize, sum: ChunkSum) {
        if let Some((open, sum)) = self.open.replace((group, sum)) {
            self.add(cpu, open, &sum);
        }
    }

    /// Adds a group; those in front of it that nobody has add nothing.
    fn add(&mut self, cpu: &Cpu, group: usize, sum: &ChunkSum) {
        self.sum.pass_over(group - self.next, self.numbers);
        self.sum.take_one(cpu, sum);
        self.next = group + 1;
    }

    fn finish(mut self, cpu: &Cpu) -> Branch {
        if let Some((open, sum)) = self.open.take() {
            self.add(cpu, open, &sum);
        }
        self.sum.pass_over(self.end - self.next, self.numbers);
        self.sum.finish()
    }
}

/// Columns `places` of rows `[N][width]`, one behind the other.
fn gather(rows: &[f32], width: usize, places: impl Iterator<Item = Range<usize>> + Clone) -> Vec<f32> {
    rows.chunks_exact(width).flat_map(|row| places.clone().flat_map(|place| row[place].to_vec())).collect()
}

/// Writes what `gather` would give back to where it would take it from.
fn scatter(from: &[f32], rows: &mut [f32], width: usize, places: impl Iterator<Item = Range<usize>> + Clone) {
    let mut from = from;
    for row in rows.chunks_exact_mut(width) {
        for place in places.clone() {
            let (part, rest) = from.split_at(place.len());
            row[place].copy_from_slice(part);
            from = rest;
        }
    }
}

fn check_tokens(tokens: Tokens, count: usize) -> Result<()> {
    match tokens.sequences.len() == count && tokens.positions.len() == count {
        true => Ok(()),
        false => Err(Error::usage(format!("{count} rows need as many sequences and positions"))),
    }
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
