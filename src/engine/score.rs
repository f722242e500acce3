//! Scores of a layer's neurons, by the recipe's selector.

use super::ffn::neurons;
use super::threads::{each, together};
use super::walk::{Part, WalkId};
use super::{Engine, busy};
use crate::config::Cut;
use crate::error::{Error, Result};
use crate::kernels::neurons::{KeptDots, values, values_kept};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, keeps_groups};
use crate::select::{ActiveSet, Band, Factors, Lowrank, choose};
use crate::types::{CHUNK, Level};
use std::time::Instant;

/// Scores, and the values that they were made from.
pub struct Scores {
    /// `[N, ffn]`; larger is more important.
    pub rows: Vec<f32>,
    /// Level of the values, if there are any.
    pub level: Option<Level>,
    /// How many neurons of all tokens the values are of.
    pub scanned: u64,
    /// Bytes that a predictor touched for all tokens.
    pub predictor_bytes: u64,
    /// Values of every chunk.
    panels: Vec<Panel>,
    /// What 8 bits begin with, of every chunk; none where it is not kept.
    kept: Vec<KeptDots>,
    /// Of which neurons, where not of all.
    candidates: Option<ActiveSet>,
}

impl Scores {
    /// What neurons of a chunk give at a level, if that is known already.
    pub fn taken(&self, level: Level, chunk: usize, ids: &[u32]) -> Option<Panel> {
        let panel = self.panels.get(chunk).filter(|_| self.level == Some(level))?;
        let Some(candidates) = &self.candidates else { return Some(panel.pick(ids)) };
        let known = &band(candidates, chunk).ids;
        // Only candidates are chosen: the others rank behind them.
        let places: Vec<u32> = ids.iter().map(|id| known.partition_point(|known| known < id) as u32).collect();
        Some(panel.pick(&places))
    }

    /// What 8 bits of a chunk's neurons begin with, if it was kept.
    pub fn kept(&self, level: Level, chunk: usize) -> Option<&KeptDots> {
        self.kept.get(chunk).filter(|_| level == Level::L8)
    }

    /// The memory of what was kept, to be used again.
    pub fn into_room(self) -> Vec<KeptDots> {
        self.kept
    }
}

impl Engine {
    /// Scores of every neuron of a layer for rows `x [N, hidden]` before the norm, `[N, ffn]`: larger is more important.
    ///
    /// # Errors
    /// `Error::Usage` for shapes, for a recipe that has no selector, a predictor that is not there, and a trace, which
    /// ranks by position; those of reading the store.
    pub fn scores(&mut self, layer: usize, x: &[f32]) -> Result<Vec<f32>> {
        let count = self.check_rows(x)?;
        let inputs = self.ranked_inputs(layer, x)?;
        self.part(layer, count, |engine| Ok(engine.score(layer, &inputs, &[], false)?.rows))
    }

    /// Sets the low-rank factors by which a layer's neurons are ranked, coded at 4 or 8 bits.
    ///
    /// # Errors
    /// `Error::Usage` for a layer that there is not, and those of [`Lowrank::new`].
    pub fn set_predictor(&mut self, layer: usize, factors: &Factors, level: Level) -> Result<()> {
        self.check_layers(&(layer..layer + 1))?;
        self.predictors[layer] = Some(Lowrank::new(factors, self.arch.hidden, self.arch.ffn, level)?);
        Ok(())
    }

    /// Inputs for all that a ranked layer computes.
    pub(super) fn ranked_inputs(&self, layer: usize, x: &[f32]) -> Result<Inputs> {
        let mut levels = self.recipe.ffn_levels();
        if self.recipe.needs_predictor() {
            levels.extend(self.predictors.get(layer).into_iter().flatten().map(Lowrank::level));
        }
        Ok(self.normed(x, &self.vectors.layer(layer)?.norm_ffn, &levels))
    }

    /// Scores by the recipe's selector; those that values at 8 bits follow keep what they begin with.
    pub(super) fn score(&mut self, layer: usize, inputs: &Inputs, positions: &[u32], keep: bool) -> Result<Scores> {
        let recipe = self.recipe.clone();
        let selector = &recipe.sparse().ok_or_else(no_selector)?.selector;
        let generated = self.generated(layer, inputs.columns, positions)?;
        let predicted = if selector.needs_predictor() { self.predict(layer, inputs)? } else { Scores::none() };
        let mut scores = match (selector.scans(), selector.candidates(layer)) {
            (None, _) => predicted,
            (Some(level), None) => {
                let kept = if keep { self.room(layer, inputs.columns) } else { vec![] };
                self.scan(layer, inputs, level, kept)?
            }
            (Some(level), Some(count)) => {
                let ranking = generated.as_ref().unwrap_or(&predicted.rows);
                let found = self.scan_some(layer, inputs, level, ranking, count)?;
                Scores { predictor_bytes: predicted.predictor_bytes, ..found }
            }
        };
        scores.rows = generated.unwrap_or(scores.rows);
        Ok(scores)
    }

    /// What a trace puts in place of scores.
    fn generated(&mut self, layer: usize, columns: usize, positions: &[u32]) -> Result<Option<Vec<f32>>> {
        let Some(generator) = &mut self.generator else { return Ok(None) };
        if positions.len() != columns {
            return Err(Error::usage("a trace ranks neurons by the position of a token: take it through layers"));
        }
        let begin = Instant::now();
        let mut rows = vec![0.0; columns * self.arch.ffn];
        for (row, position) in rows.chunks_exact_mut(self.arch.ffn).zip(positions) {
            generator.scores(layer, u64::from(*position), row);
        }
        self.counted.trace_seconds += begin.elapsed().as_secs_f64();
        Ok(Some(rows))
    }

    /// Scores by the layer's predictor.
    fn predict(&self, layer: usize, inputs: &Inputs) -> Result<Scores> {
        let predictor = self.predictors[layer].as_ref().ok_or_else(|| no_predictor(layer))?;
        let rows = predictor.scores(&self.cpu, inputs, self.arch.activation);
        let predictor_bytes = predictor.read_bytes() * inputs.columns as u64;
        Ok(Scores { rows, predictor_bytes, ..Scores::none() })
    }

    /// Where a scan keeps what 8 bits begin with; nowhere if nothing of the layer is computed at 8 bits, and for
    /// several tokens, which read the planes together.
    fn room(&mut self, layer: usize, columns: usize) -> Vec<KeptDots> {
        let coding = &self.weights.store().manifest.encoding.coding;
        if !(self.recipe.keeps_dots(layer) && keeps_groups(&self.cpu, columns, coding)) {
            return vec![];
        }
        let mut kept = std::mem::take(&mut self.room);
        kept.resize_with(self.arch.ffn.div_ceil(CHUNK), KeptDots::default);
        kept
    }

    /// What all neurons give at a level, and its size as their scores; `kept` is empty or has room for every chunk.
    fn scan(&mut self, layer: usize, inputs: &Inputs, level: Level, mut kept: Vec<KeptDots>) -> Result<Scores> {
        let Engine { arch, cpu, weights, vectors, .. } = self;
        let vectors = vectors.layer(layer)?;
        let chunks = 0..arch.ffn.div_ceil(CHUNK);
        let (mut rows, mut panels) = (vec![0.0; inputs.columns * arch.ffn], Vec::with_capacity(chunks.end));
        let mut rooms = kept.iter_mut();
        weights.visit(WalkId::Layer(layer, Part::Scan(level)), chunks, together(inputs.columns), |run| {
            // Backwards: the sums that follow find in processor caches what was scanned last (2 to 3 % of a layer of 7B).
            let mut tasks: Vec<_> = run.iter().map(|leased| (leased, rooms.next())).collect();
            tasks.reverse();
            let mut found = each(cpu, tasks, |(leased, room), share| {
                let neurons = neurons(leased, vectors, arch.gated, level)?;
                Ok(match room {
                    Some(room) => values_kept(share.cpu, inputs, arch.activation, &neurons, room),
                    None => values(share.cpu, inputs, arch.activation, &neurons),
                })
            })?;
            found.reverse();
            let to = run.iter().zip(&found);
            to.for_each(|(leased, panel)| panel.put_rows(&mut rows, arch.ffn, leased.records().start));
            panels.extend(found);
            Ok(())
        })?;
        rows.iter_mut().for_each(|value| *value = value.abs());
        Ok(Scores { scanned: rows.len() as u64, rows, level: Some(level), panels, kept, ..Scores::none() })
    }

    /// The same of as many neurons of every token as `ranking` has highest; the others rank behind them.
    fn scan_some(
        &mut self,
        layer: usize,
        inputs: &Inputs,
        level: Level,
        ranking: &[f32],
        count: usize,
    ) -> Result<Scores> {
        let Engine { arch, cpu, weights, vectors, .. } = self;
        let vectors = vectors.layer(layer)?;
        let mut set = ActiveSet::empty(0, 0);
        choose(Some(cpu), ranking, arch.ffn, &Cut::Top([0, 0, count]), &mut set);
        let mut rows = vec![f32::NEG_INFINITY; ranking.len()];
        let mut panels = vec![Panel::new(0, inputs.columns); set.chunks.len()];
        let walk = WalkId::Layer(layer, Part::Scan(level));
        let wanted = |chunk: usize, _, _| band(&set, chunk).ids.clone();
        weights.visit_chosen(walk, &busy(&set, 0..set.chunks.len()), together(inputs.columns), wanted, |run| {
            let found = each(cpu, run.iter().collect(), |leased, share| {
                let ids = &band(&set, leased.records().start / CHUNK).ids;
                Ok(values(share.cpu, inputs, arch.activation, &neurons(leased, vectors, arch.gated, level)?.at(ids)))
            })?;
            for (leased, panel) in run.iter().zip(found) {
                let first = leased.records().start;
                scatter(&panel, band(&set, first / CHUNK), first, arch.ffn, &mut rows);
                panels[first / CHUNK] = panel;
            }
            Ok(())
        })?;
        let scanned = (count.min(arch.ffn) * inputs.columns) as u64;
        Ok(Scores { rows, level: Some(level), scanned, panels, candidates: Some(set), ..Scores::none() })
    }
}

impl Scores {
    /// No scores.
    pub fn none() -> Scores {
        Scores {
            rows: vec![],
            level: None,
            scanned: 0,
            predictor_bytes: 0,
            panels: vec![],
            kept: vec![],
            candidates: None,
        }
    }
}

/// Candidates of a chunk: what [`Cut::Top`] puts at 4 bits.
fn band(set: &ActiveSet, chunk: usize) -> &Band {
    let [_, _, band] = &set.chunks[chunk];
    band
}

/// Writes the sizes of the band's values to its neurons, for the tokens that have them as candidates.
fn scatter(panel: &Panel, band: &Band, first: usize, neurons: usize, rows: &mut [f32]) {
    for (n, row) in rows.chunks_exact_mut(neurons).enumerate() {
        for ((id, used), value) in band.ids.iter().zip(&band.used).zip(panel.column(n)) {
            if used >> n & 1 == 1 {
                row[first + *id as usize] = value.abs();
            }
        }
    }
}

fn no_selector() -> Error {
    Error::usage("the recipe has no selector: all neurons are computed; open the store with one (select plane)")
}

fn no_predictor(layer: usize) -> Error {
    Error::usage(format!(
        "the recipe ranks neurons by low-rank factors, and layer {layer} has none: m2cache profile makes them, or take the \
         selector plane"
    ))
}
