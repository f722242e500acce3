//! Generated rankings, for shapes whose weights cannot be had (docs/design.md, 5). What is timed with them says nothing
//! of quality.

use super::normal::{each, part};
use crate::config::Trace;
use crate::error::{Error, Result};

/// The scores of every layer's neurons, token by token: mean plus latent. They are the same for the same seed, layer and
/// token, whatever was asked for before; but a token costs those between it and the last one of its layer, and one before
/// that all from the first on.
#[derive(Debug)]
pub struct Generator {
    trace: Trace,
    neurons: usize,
    layers: Vec<Option<Latent>>,
}

/// A layer's state.
#[derive(Debug)]
struct Latent {
    key: u64,
    /// skew * N(0, 1), for ever.
    means: Vec<f32>,
    values: Vec<f32>,
    /// Whose the values are.
    token: u64,
}

impl Generator {
    /// Of so many layers of so many neurons.
    pub fn new(trace: Trace, layers: usize, neurons: usize) -> Generator {
        Generator { trace, neurons, layers: (0..layers).map(|_| None).collect() }
    }

    /// Writes the scores of a layer's neurons for the token with that number.
    ///
    /// # Panics
    /// If there is no such layer, or `scores` is not as long as it has neurons.
    pub fn scores(&mut self, layer: usize, token: u64, scores: &mut [f32]) {
        assert_eq!(scores.len(), self.neurons, "scores of so many neurons");
        let latent = self.layers[layer].take().filter(|latent| latent.token <= token);
        let mut latent = latent.unwrap_or_else(|| Latent::first(&self.trace, layer, self.neurons));
        while latent.token < token {
            latent.step(self.trace.memory);
        }
        let sums = latent.means.iter().zip(&latent.values).map(|(mean, value)| mean + value);
        scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = sum);
        self.layers[layer] = Some(latent);
    }
}

impl Latent {
    fn first(trace: &Trace, layer: usize, neurons: usize) -> Latent {
        let key = part(trace.seed, layer as u64);
        let (mut means, mut values) = (vec![0.0; neurons], vec![0.0; neurons]);
        each(part(key, u64::MAX), &mut means, |mean, normal| *mean = trace.skew * normal);
        each(part(key, 0), &mut values, |value, normal| *value = normal);
        Latent { key, means, values, token: 0 }
    }

    fn step(&mut self, memory: f32) {
        self.token += 1;
        let fresh = (1.0 - memory * memory).sqrt();
        each(part(self.key, self.token), &mut self.values, |value, normal| *value = memory * *value + fresh * normal);
    }
}

/// Tokens of a simulation.
const TOKENS: u64 = 33;

/// What the fit halves: 2^-20 is less than an overlap of 1100 neurons shows.
const HALVINGS: usize = 20;

/// The `memory` with which, of the `share` of `neurons` that a token has, on average `overlap` are those of the token
/// before: by simulation.
///
/// # Errors
/// `Error::Usage` for a share of no neuron, and an overlap out of reach: even without memory some neurons stay, the more
/// the greater the skew.
pub fn fit_memory(neurons: usize, share: f64, overlap: f64, skew: f32, seed: u64) -> Result<f32> {
    let kept = (share * neurons as f64).round();
    if !(kept >= 1.0 && share <= 1.0) {
        return Err(Error::usage(format!(
            "a share of {share} of {neurons} neurons; it must keep one, and lie in 0..=1"
        )));
    }
    if !(skew.is_finite() && skew >= 0.0) {
        return Err(Error::usage(format!("a skew of {skew}; it must be finite and not below 0")));
    }
    let simulated = |memory| simulate(neurons, kept as usize, &trace(memory, skew, seed));
    let least = simulated(0.0);
    if !(least..=1.0).contains(&overlap) {
        return Err(Error::usage(format!(
            "an overlap of {overlap}; with a share of {share} and a skew of {skew} it lies in {least:.3}..=1"
        )));
    }
    Ok(bisected(|memory| simulated(memory) < overlap))
}

fn trace(memory: f32, skew: f32, seed: u64) -> Trace {
    Trace { paid: Box::new(crate::config::Selector::Plane), memory, skew, seed }
}

/// Where, from 0 to 1, `below` ends to hold.
fn bisected(below: impl Fn(f32) -> bool) -> f32 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        (low, high) = if below(middle) { (middle, high) } else { (low, middle) };
    }
    high
}

/// The mean share of a token's `kept` neurons that are of the token before.
fn simulate(neurons: usize, kept: usize, trace: &Trace) -> f64 {
    let mut all = Generator::new(trace.clone(), 1, neurons);
    let mut set = |token| highest(&mut all, token, kept);
    let (mut last, mut common) = (set(0), 0);
    for token in 1..TOKENS {
        let next = set(token);
        common += next.iter().zip(&last).filter(|(a, b)| **a && **b).count();
        last = next;
    }
    common as f64 / (kept as u64 * (TOKENS - 1)) as f64
}

/// Which neurons are the `kept` highest.
fn highest(all: &mut Generator, token: u64, kept: usize) -> Vec<bool> {
    let mut scores = vec![0.0; all.neurons];
    all.scores(0, token, &mut scores);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let by = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    order.select_nth_unstable_by(kept - 1, by);
    let mut set = vec![false; scores.len()];
    order[..kept].iter().for_each(|id| set[*id] = true);
    set
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn scores(all: &mut Generator, layer: usize, token: u64) -> Vec<f32> {
        let mut scores = vec![0.0; all.neurons];
        all.scores(layer, token, &mut scores);
        scores
    }

    proptest! {
        #[test]
        fn scores_rest_on_seed_layer_and_token_alone(asked in prop::collection::vec((0usize..3, 0u64..20), 1..20)) {
            let mut all = Generator::new(trace(0.75, 1.5, 3), 3, 40);
            for (layer, token) in asked {
                let alone = scores(&mut Generator::new(trace(0.75, 1.5, 3), 3, 40), layer, token);
                prop_assert_eq!(scores(&mut all, layer, token), alone);
            }
        }
    }

    #[test]
    fn seeds_layers_and_tokens_differ() {
        let of = |seed, layer, token| scores(&mut Generator::new(trace(0.5, 1.0, seed), 2, 40), layer, token);
        assert!(of(0, 0, 1) != of(1, 0, 1) && of(0, 0, 1) != of(0, 1, 1) && of(0, 0, 1) != of(0, 0, 2));
    }

    #[test]
    fn latents_keep_their_variance_and_their_memory() {
        let mut all = Generator::new(trace(0.8, 0.0, 5), 1, 50_000);
        let (now, later) = (scores(&mut all, 0, 30), scores(&mut all, 0, 31));
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>() / 50_000.0;
        assert!((product(&now, &now) - 1.0).abs() < 0.02, "{}", product(&now, &now));
        assert!((product(&now, &later) - 0.8).abs() < 0.02, "{}", product(&now, &later));
    }

    #[test]
    fn means_have_the_skew() {
        let mut all = Generator::new(trace(0.0, 2.0, 5), 1, 50_000);
        let (now, later) = (scores(&mut all, 0, 0), scores(&mut all, 0, 1));
        let shared = now.iter().zip(&later).map(|(a, b)| f64::from(a * b)).sum::<f64>() / 50_000.0;
        assert!((shared - 4.0).abs() < 0.1, "{shared}");
    }

    #[test]
    fn fitted_traces_have_the_overlap() {
        for (share, overlap, skew) in [(0.1, 0.6, 0.0), (0.1, 0.8, 1.0), (0.5, 0.75, 0.5)] {
            let memory = fit_memory(4096, share, overlap, skew, 1).unwrap();
            // Other tokens than those of the fit.
            let have = simulate(4096, (share * 4096.0) as usize, &trace(memory, skew, 2));
            assert!((have - overlap).abs() < 0.02, "{share} {skew}: {have}, not {overlap}");
        }
    }

    #[test]
    fn what_no_trace_has_is_refused() {
        let why = |share, overlap, skew| fit_memory(1000, share, overlap, skew, 1).unwrap_err().to_string();
        assert!(why(0.5, 0.3, 0.0).starts_with("an overlap of 0.3; with a share of 0.5 and a skew of 0 it lies in 0."));
        assert!(why(0.5, 1.1, 0.0).contains("..=1"));
        assert!(why(0.5, f64::NAN, 0.0).contains("an overlap of NaN"));
        assert!(why(0.0001, 0.5, 0.0).starts_with("a share of 0.0001 of 1000 neurons"));
        assert!(why(0.5, 0.9, -1.0).starts_with("a skew of -1"));
    }
}
