//! Query heads of a call: which some token has, where their records lie, and what that touched.

use super::Engine;
use super::counted::Attended;
use super::parts::{Reach, reach};
use super::walk::Part;
use crate::config::{Architecture, Cut};
use crate::error::{Error, Result};
use crate::kernels::project::Inputs;
use crate::select::{ActiveSet, HeadScores, choose};
use crate::types::{CHUNK, Kind, Level, Matrix};
use std::ops::Range;

/// What chooses heads, and what decode tokens touched of attention.
#[derive(Debug)]
pub struct Attending {
    /// By layer, where they were handed over.
    scores: Vec<Option<HeadScores>>,
    counted: Attended,
}

impl Attending {
    /// Of a model: no layer's heads can be chosen yet.
    pub fn new(arch: &Architecture) -> Attending {
        Attending { scores: (0..arch.layers).map(|_| None).collect(), counted: Attended::default() }
    }

    /// What was counted.
    pub fn counted(&self) -> &Attended {
        &self.counted
    }

    /// The same, to be set.
    pub fn counted_mut(&mut self) -> &mut Attended {
        &mut self.counted
    }
}

impl Engine {
    /// Sets what chooses a layer's query heads: a head's score is weights . x + bias of the normed row x, with `weights
    /// [heads, hidden]` and `bias [heads]`.
    ///
    /// # Errors
    /// `Error::Usage` for a layer that the model does not have, other shapes and numbers that are not finite.
    pub fn set_head_predictor(&mut self, layer: usize, weights: &[f32], bias: &[f32]) -> Result<()> {
        let (arch, layers) = (&self.arch, self.arch.layers);
        let missing = || Error::usage(format!("layer {layer} of a model with {layers}"));
        let to = self.attending.scores.get_mut(layer).ok_or_else(missing)?;
        *to = Some(HeadScores::new(weights, bias, arch.hidden, arch.heads)?);
        Ok(())
    }

    /// The levels that attention's input has to be ready for.
    pub(super) fn attention_levels(&self, kind: Kind) -> Vec<Level> {
        let choosing = (self.chooses(kind) && self.recipe.attn != HeadScores::LEVEL).then_some(HeadScores::LEVEL);
        [self.recipe.attn].into_iter().chain(choosing).collect()
    }

    /// Whether tokens of a kind have some heads only.
    pub(super) fn chooses(&self, kind: Kind) -> bool {
        reach(&self.arch, &self.recipe, kind, Part::Attention(Matrix::Q)) == Reach::Chosen
    }

    /// The query heads of some KV heads that tokens have. Those of a token rest on all heads, whichever are asked for.
    pub(super) fn heads_of(&mut self, layer: usize, inputs: &Inputs, kind: Kind, kv: &Range<usize>) -> Result<HeadSet> {
        let group = self.arch.heads / self.arch.kv_heads;
        let asked = kv.start * group..kv.end * group;
        let Some(top) = self.recipe.query_heads(layer).filter(|_| kind == Kind::Decode) else {
            return Ok(HeadSet::all(asked));
        };
        let scores = self.attending.scores[layer].as_ref().ok_or_else(|| unknown(layer))?;
        let mut set = ActiveSet::empty(0, 0);
        choose(None, &scores.scores(&self.cpu, inputs), self.arch.heads, &Cut::Top([top, 0, 0]), &mut set);
        Ok(HeadSet::chosen(&set, &asked))
    }

    /// Adds tokens to what was touched, each as if it were alone: what chose their heads with the first KV head.
    pub(super) fn count_heads(&mut self, layer: usize, set: &HeadSet, tokens: usize, kv: &Range<usize>) {
        let choosing = self.recipe.query_heads.as_ref().and(self.attending.scores[layer].as_ref());
        let Attended { tally, heads } = &mut self.attending.counted;
        let (uses, tokens) = (set.uses(tokens), tokens as u64);
        *heads += uses;
        tally.touched_bytes += self.touched.heads(self.recipe.attn, uses, tokens * kv.len() as u64);
        if kv.start == 0 {
            tally.tokens(layer, tokens);
            tally.choosing(choosing.map_or(0, |scores| tokens * scores.read_bytes()));
        }
    }
}

/// Query heads that some token of a call has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadSet {
    /// Numbers in the model, rising.
    pub ids: Vec<usize>,
    /// For each of `ids` a bit for every token that has it; none where every token has all.
    used: Option<Vec<u32>>,
}

impl HeadSet {
    /// For every token.
    pub fn all(heads: Range<usize>) -> HeadSet {
        HeadSet { ids: heads.collect(), used: None }
    }

    /// The heads that lie in `asked`, of a set whose neurons are heads.
    fn chosen(set: &ActiveSet, asked: &Range<usize>) -> HeadSet {
        let bands = set.chunks.iter().enumerate().map(|(chunk, [band, ..])| (chunk * CHUNK, band));
        let heads = bands.flat_map(|(first, band)| {
            band.ids.iter().zip(&band.used).map(move |(id, used)| (first + *id as usize, *used))
        });
        let (ids, used) = heads.filter(|(id, _)| asked.contains(id)).unzip();
        HeadSet { ids, used: Some(used) }
    }

    /// Heads of `tokens` tokens in all.
    fn uses(&self, tokens: usize) -> u64 {
        match &self.used {
            None => (self.ids.len() * tokens) as u64,
            Some(used) => used.iter().map(|used| u64::from(used.count_ones())).sum(),
        }
    }

    /// The heads as they lie in `ids`, by the KV head that they read: `group` query heads read one.
    pub fn by_kv(&self, group: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut end = 0;
        self.ids.chunk_by(move |a, b| a / group == b / group).map(move |of| {
            end += of.len();
            (of[0] / group, end - of.len()..end)
        })
    }

    /// Writes +0 over what the heads that a token does not have gave: rows `[N][ids][dim]`. Written, not multiplied: it
    /// may be no number.
    pub fn mask(&self, rows: &mut [f32], dim: usize) {
        let Some(used) = &self.used else { return };
        for (n, row) in rows.chunks_exact_mut((self.ids.len() * dim).max(1)).enumerate() {
            let off = row.chunks_exact_mut(dim).zip(used).filter(|(_, used)| **used >> n & 1 == 0);
            off.for_each(|(head, _)| head.fill(0.0));
        }
    }

    /// Their records in a matrix that has `dim` for each head.
    pub fn records(&self, dim: usize) -> Records<'_> {
        Records { ids: &self.ids, dim }
    }
}

/// The records of some heads.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    ids: &'a [usize],
    dim: usize,
}

impl Records<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        self.ids.len() * self.dim
    }

    /// How many of them are before record `record`.
    pub fn before(&self, record: usize) -> usize {
        let heads = self.ids.partition_point(|id| *id < record / self.dim);
        let inside = self.ids.get(heads).is_some_and(|id| *id == record / self.dim);
        heads * self.dim + if inside { record % self.dim } else { 0 }
    }

    /// Those that lie in a range: places in it, rising.
    pub fn places(&self, range: &Range<usize>) -> Vec<u32> {
        let heads = range.start / self.dim..range.end.div_ceil(self.dim);
        let [first, end] = [heads.start, heads.end].map(|head| self.ids.partition_point(|id| *id < head));
        let of = |id: &usize| (id * self.dim).max(range.start)..((id + 1) * self.dim).min(range.end);
        self.ids[first..end.max(first)].iter().flat_map(of).map(|record| (record - range.start) as u32).collect()
    }

    /// The chunks that hold any.
    pub fn chunks(&self) -> Vec<usize> {
        let of = |id: &usize| id * self.dim / CHUNK..((id + 1) * self.dim).div_ceil(CHUNK);
        let mut chunks: Vec<usize> = self.ids.iter().flat_map(of).collect();
        chunks.dedup();
        chunks
    }
}

fn unknown(layer: usize) -> Error {
    Error::usage(format!(
        "the recipe leaves out query heads, and nothing chooses those of layer {layer}: `m2cache profile STORE --text FILE \
         --query-heads` makes it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_are_those_of_their_heads(
            ids in prop::collection::btree_set(0usize..12, 0..12), dim in 1usize..200, cut in (0usize..2400, 0usize..300),
        ) {
            let ids: Vec<usize> = ids.into_iter().collect();
            let (set, range) = (HeadSet { ids: ids.clone(), used: None }, cut.0..cut.0 + cut.1);
            let (records, has) = (set.records(dim), |record: usize| ids.contains(&(record / dim)));
            let places: Vec<u32> = range.clone().filter(|r| has(*r)).map(|r| (r - range.start) as u32).collect();
            prop_assert_eq!(records.places(&range), places);
            prop_assert_eq!(records.before(range.start), (0..range.start).filter(|r| has(*r)).count());
            let all: Vec<usize> = (0..12 * dim).filter(|r| has(*r)).collect();
            prop_assert_eq!(records.len(), all.len());
            let mut chunks: Vec<usize> = all.iter().map(|r| r / CHUNK).collect();
            chunks.dedup();
            prop_assert_eq!(records.chunks(), chunks);
        }

        #[test]
        fn heads_are_told_by_kv_head_and_masked_by_token(
            used in prop::collection::vec(0u32..8, 1..9), group in 1usize..4, dim in 1usize..4,
        ) {
            let ids: Vec<usize> = (0..used.len()).filter(|id| used[*id] != 0).collect();
            let bits = ids.iter().map(|id| used[*id]).collect();
            let set = HeadSet { ids: ids.clone(), used: Some(bits) };
            for (kv, of) in set.by_kv(group) {
                let mine: Vec<usize> = ids.iter().copied().filter(|id| id / group == kv).collect();
                prop_assert_eq!(&ids[of], &mine[..]);
            }
            prop_assert_eq!(set.by_kv(group).map(|(_, of)| of.len()).sum::<usize>(), ids.len());
            prop_assert_eq!(set.uses(3), used.iter().map(|used| u64::from(used.count_ones())).sum::<u64>());
            let mut rows = vec![f32::NAN; 3 * ids.len() * dim];
            set.mask(&mut rows, dim);
            for (at, value) in rows.iter().enumerate() {
                let (n, head) = (at / (ids.len() * dim), at / dim % ids.len());
                let has = used[ids[head]] >> n & 1 == 1;
                prop_assert_eq!((value.is_nan(), value.to_bits() == 0), (has, !has));
            }
        }
    }
}
