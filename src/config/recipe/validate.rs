//! Whether a recipe is one for a model. Messages name the field, what the model has, and the way out.

use super::{Above, Cut, Ffn, Recipe, Selector, Sparse, Trace};
use crate::config::{Activation, Architecture};
use crate::error::{Error, Result};
use crate::types::Level;

impl Recipe {
    /// Checks every rule that selection relies on. Which planes a store has is another question
    /// ([`Recipe::ffn_finest`]).
    ///
    /// # Errors
    /// `Error::Usage` naming the field, what is known and the way out.
    pub fn validate(&self, arch: &Architecture) -> Result<()> {
        let checked = match &self.ffn {
            Ffn::Dense(_) => Ok(()),
            Ffn::Certified(level) => certified(*level, arch.activation),
            Ffn::Sparse(all) => sparse(all, arch),
        };
        checked.map_err(|why| Error::usage(format!("recipe.ffn.{why}")))?;
        let checked = self.query_heads.as_ref().map_or(Ok(()), |of| query_heads(&of.top, arch));
        checked.map_err(|why| Error::usage(format!("recipe.{why}")))
    }
}

fn query_heads(top: &[usize], arch: &Architecture) -> Result<(), String> {
    count("query_heads.top", top.len(), arch.layers)?;
    match top.iter().position(|count| !(1..=arch.heads).contains(count)) {
        None => Ok(()),
        Some(i) => Err(format!(
            "query_heads.top[{i}] is {}; a layer of this model has {} query heads: take 1 to {1}",
            top[i], arch.heads
        )),
    }
}

fn certified(level: Level, activation: Activation) -> Result<(), String> {
    if level == Level::L4 {
        return Err("certified is 4: no plane is below it to prove anything by; take 8 or 16, or dense".into());
    }
    match activation.rests_at_zero() {
        true => Ok(()),
        false => Err(format!(
            "certified needs an activation that is 0 below 0 (relu, relu2, relu6); this model's {} is not; take sparse \
             with the selector plane, or dense",
            activation.name()
        )),
    }
}

fn sparse(sparse: &Sparse, arch: &Architecture) -> Result<(), String> {
    count("sparse.cuts", sparse.cuts.len(), arch.layers)?;
    selector("sparse.selector", &sparse.selector, arch)?;
    for (i, cut) in sparse.cuts.iter().enumerate() {
        self::cut(cut, arch.ffn).map_err(|why| format!("sparse.cuts[{i}].{why}"))?;
    }
    (0..arch.layers).try_for_each(|layer| fits(sparse, layer))
}

/// One for all layers, or one for each.
fn count(field: &str, have: usize, layers: usize) -> Result<(), String> {
    match have == 1 || have == layers {
        true => Ok(()),
        false => Err(format!("{field} has {have} entries; give 1 for all layers, or {layers}: one for each")),
    }
}

fn selector(field: &str, selector: &Selector, arch: &Architecture) -> Result<(), String> {
    match selector {
        Selector::Plane | Selector::Lowrank | Selector::Oracle => Ok(()),
        Selector::Cascade(counts) => cascade(&format!("{field}.cascade"), counts, arch),
        Selector::Trace(trace) => self::trace(&format!("{field}.trace"), trace, arch),
    }
}

fn cascade(field: &str, counts: &[usize], arch: &Architecture) -> Result<(), String> {
    count(field, counts.len(), arch.layers)?;
    match counts.iter().position(|count| !(1..=arch.ffn).contains(count)) {
        None => Ok(()),
        Some(i) => Err(format!(
            "{field}[{i}] is {}; a layer of this model has {} neurons: let 1 to {1} of them through",
            counts[i], arch.ffn
        )),
    }
}

fn trace(field: &str, trace: &Trace, arch: &Architecture) -> Result<(), String> {
    if !(0.0..=1.0).contains(&trace.memory) {
        return Err(format!("{field}.memory is {}; it must lie in 0..=1", trace.memory));
    }
    if !(trace.skew.is_finite() && trace.skew >= 0.0) {
        return Err(format!("{field}.skew is {}; it must be finite and not below 0", trace.skew));
    }
    if matches!(*trace.paid, Selector::Trace(_)) {
        return Err(format!("{field}.paid is a trace itself; name the selector whose cost is to be paid"));
    }
    selector(&format!("{field}.paid"), &trace.paid, arch)
}

fn cut(cut: &Cut, neurons: usize) -> Result<(), String> {
    match cut {
        Cut::Top(counts) => top(counts, neurons),
        Cut::Above(above) => self::above(above),
    }
}

fn top(counts: &[usize; 3], neurons: usize) -> Result<(), String> {
    // Saturating: each count is checked to be at most 2^24 by its sum only.
    match counts.iter().fold(0, |sum: usize, count| sum.saturating_add(*count)) {
        0 => Err("top keeps no neuron: give a count at 16, 8 or 4 bits".into()),
        all if all > neurons => Err(format!(
            "top keeps {counts:?}, in all {all} neurons; a layer of this model has {neurons}: lower the counts, or take dense"
        )),
        _ => Ok(()),
    }
}

fn above(above: &Above) -> Result<(), String> {
    let set: Vec<f32> = above.scores.iter().flatten().copied().collect();
    if above.most == 0 {
        return Err("above.most is 0: no neuron would be kept; give the most a token may have (k_max)".into());
    }
    if set.is_empty() {
        return Err("above.scores has no threshold; give one at 16, 8 or 4 bits".into());
    }
    if set.iter().any(|score| !score.is_finite()) {
        return Err(format!("above.scores are {:?}; a threshold must be finite", above.scores));
    }
    match set.is_sorted_by(|finer, coarser| finer >= coarser) {
        true => Ok(()),
        false => Err(format!(
            "above.scores are {:?}, for 16, 8 and 4 bits: a finer level's threshold may not be below a coarser one's",
            above.scores
        )),
    }
}

/// What a layer's cut asks of its ranking.
fn fits(sparse: &Sparse, layer: usize) -> Result<(), String> {
    let cut = sparse.cut(layer);
    if matches!((&sparse.selector, cut), (Selector::Trace(_), Some(Cut::Above(_)))) {
        return Err("sparse.cuts: a trace's generated scores have no thresholds; cut it by counts (top)".into());
    }
    match (sparse.selector.candidates(layer), cut) {
        (Some(through), Some(Cut::Top(counts))) if counts.iter().sum::<usize>() > through => Err(format!(
            "sparse: layer {layer} keeps {} neurons of the {through} that its cascade lets through; raise cascade or lower top",
            counts.iter().sum::<usize>()
        )),
        _ => Ok(()),
    }
}
