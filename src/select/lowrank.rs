//! Low-rank predictors (Liu et al., "Deja Vu", arXiv 2310.17157): what a neuron's gate may give, from two small matrices
//! in place of its record. Found by training or by the gate's singular values on the Python side; computed here.
//!
//! Up is kept by rank, a record for each as long as the neurons are many, and its records are added: as a record a neuron,
//! a few blocks long, each cost more than its bytes (0.45 ms a layer of 7B at rank 192, by rank 0.13; benches/NOTES.md).

use super::coded::Coded;
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::kernels::Cpu;
use crate::kernels::accumulate::{Accumulator, ChunkSum};
use crate::kernels::activation::apply;
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project};
use crate::types::{CHUNK, Level};
use std::ops::Range;

/// A layer's predictor as it comes.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// `[rank][hidden]`.
    pub down: &'a [f32],
    /// `[neurons][rank]`; or `[2][neurons][rank]`, one output that foretells the gate and one that foretells up.
    pub up: &'a [f32],
    /// `[neurons]`, added to what the (first) output gives.
    pub bias: &'a [f32],
    /// `[neurons]`, times the size of the activation: what the neuron's other weights are worth.
    pub weight: &'a [f32],
}

/// A layer's predictor, coded.
#[derive(Debug)]
pub struct Lowrank {
    /// `[rank][hidden]`.
    down: Coded,
    /// `[rank][outputs x neurons]`.
    up: Coded,
    bias: Vec<f32>,
    weight: Vec<f32>,
}

impl Lowrank {
    /// Codes the factors of a layer of `neurons` neurons at 4 or 8 bits.
    ///
    /// # Errors
    /// `Error::Usage` for another level, shapes that do not fit, and numbers that are not finite or beyond an f16 scale;
    /// `Error::Memory`.
    pub fn new(factors: &Factors, hidden: usize, neurons: usize, level: Level) -> Result<Lowrank> {
        if level == Level::L16 {
            return Err(Error::usage("a predictor of 16 bits; its factors are coded at 4 or 8"));
        }
        let rank = check(factors, hidden, neurons)?;
        Ok(Lowrank {
            down: Coded::new("the predictor's down", factors.down, hidden, level)?,
            up: Coded::new("the predictor's up by rank", &by_rank(factors.up, rank), factors.up.len() / rank, level)?,
            bias: factors.bias.to_vec(),
            weight: factors.weight.to_vec(),
        })
    }

    /// The level that its inputs have to be ready for.
    pub fn level(&self) -> Level {
        self.down.level()
    }

    /// Neurons.
    pub fn neurons(&self) -> usize {
        self.bias.len()
    }

    /// Bytes that scoring a token reads.
    pub fn read_bytes(&self) -> u64 {
        let vectors = size_of_val(&self.bias[..]) + size_of_val(&self.weight[..]);
        self.down.read_bytes() + self.up.read_bytes() + vectors as u64
    }

    /// Scores of N tokens, `[N][neurons]`: |activation(up . (down . x) + bias)| * weight, with a second output
    /// |activation(gate + bias) * up| * weight. Each rests on its token alone.
    ///
    /// # Panics
    /// If the inputs are not as wide as down, or were not prepared for [`Lowrank::level`].
    pub fn scores(&self, cpu: &Cpu, inputs: &Inputs, activation: Activation) -> Vec<f32> {
        let outputs = self.sums(cpu, &self.narrow(cpu, inputs));
        let mut scores = Vec::with_capacity(inputs.columns * self.neurons());
        for row in outputs.chunks_exact(self.up.width()) {
            let begin = scores.len();
            let (gate, up) = row.split_at(self.neurons());
            scores.extend(gate);
            let row = &mut scores[begin..];
            cpu.run(|| apply(cpu.isa, activation, row));
            row.iter_mut().zip(up).for_each(|(score, up)| *score *= up);
            row.iter_mut().zip(&self.weight).for_each(|(score, weight)| *score = score.abs() * weight);
        }
        scores
    }

    /// `[N][rank]`.
    fn narrow(&self, cpu: &Cpu, inputs: &Inputs) -> Vec<f32> {
        rows_of(cpu, &self.down, inputs)
    }

    /// The bias plus up's records by their factors, `[N][outputs x neurons]`: chunks of ranks in order (docs/format.md, 6).
    fn sums(&self, cpu: &Cpu, narrow: &[f32]) -> Vec<f32> {
        let (rank, width) = (self.down.records(), self.up.width());
        let columns = narrow.len() / rank;
        let chunk = |ranks: Range<usize>| {
            let mut sum = ChunkSum::new(columns, width);
            let rows = self.up.rows().slice(ranks.start, ranks.end);
            sum.add(cpu, &rows, &Panel::of_rows(narrow, rank, ranks), cpu.threads());
            sum
        };
        let starts = (0..rank).step_by(CHUNK);
        let chunks: Vec<ChunkSum> = starts.map(|first| chunk(first..rank.min(first + CHUNK))).collect();
        let mut scores = Accumulator::new(columns, width, Some(&self.bias));
        cpu.run(|| scores.fold(&chunks));
        scores.finish()
    }
}

/// `[outputs x neurons][rank]` as `[rank][outputs x neurons]`.
fn by_rank(up: &[f32], rank: usize) -> Vec<f32> {
    (0..rank).flat_map(|of| up.iter().skip(of).step_by(rank).copied()).collect()
}

/// Dots of records, `[N][records]`.
pub(super) fn rows_of(cpu: &Cpu, coded: &Coded, inputs: &Inputs) -> Vec<f32> {
    let mut panel = Panel::new(coded.records(), inputs.columns);
    project(cpu, &coded.rows(), inputs, &mut panel);
    let mut rows = vec![0.0; coded.records() * inputs.columns];
    panel.put_rows(&mut rows, coded.records(), 0);
    rows
}

/// The rank, if all shapes have it.
fn check(factors: &Factors, hidden: usize, neurons: usize) -> Result<usize> {
    let rank = factors.down.len() / hidden;
    let outputs = if factors.up.len() == 2 * neurons * rank { 2 } else { 1 };
    let shapes = [
        ("down", factors.down.len(), rank.max(1) * hidden, "[rank, hidden]"),
        ("up", factors.up.len(), outputs * neurons * rank, "[ffn, rank] or [2 ffn, rank]"),
        ("bias", factors.bias.len(), neurons, "[ffn]"),
        ("weight", factors.weight.len(), neurons, "[ffn]"),
    ];
    if let Some((name, have, want, shape)) = shapes.iter().find(|(_, have, want, _)| have != want) {
        return Err(Error::usage(format!(
            "the predictor's {name} has {have} numbers, not {want}: {shape} with hidden {hidden}, ffn {neurons}, rank {rank}"
        )));
    }
    let bad = |numbers: &[f32], wrong: fn(&f32) -> bool| numbers.iter().position(wrong);
    if let Some(j) = bad(factors.bias, |bias| !bias.is_finite()) {
        return Err(Error::usage(format!(
            "the predictor's bias of neuron {j} is {}; it must be finite",
            factors.bias[j]
        )));
    }
    match bad(factors.weight, |weight| !(weight.is_finite() && *weight >= 0.0)) {
        None => Ok(rank),
        Some(j) => Err(Error::usage(format!(
            "the predictor's weight of neuron {j} is {}; it must be finite and not below 0",
            factors.weight[j]
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::kernels::testing::{arithmetics, on_two};
    use crate::kernels::{Arithmetic, Isa};
    use crate::quant::values;
    use crate::types::BLOCK;
    use proptest::prelude::*;

    /// Sizes and numbers of a predictor and its tokens.
    #[derive(Debug)]
    struct Case {
        hidden: usize,
        rank: usize,
        neurons: usize,
        outputs: usize,
        numbers: Vec<f32>,
    }

    fn case() -> impl Strategy<Value = Case> {
        let sizes = (1usize..200, 1usize..80, 1usize..40, 1usize..=2, 1usize..6);
        sizes.prop_flat_map(|(hidden, rank, neurons, outputs, columns)| {
            let all = rank * hidden + neurons * (outputs * rank + 2) + columns * hidden;
            prop::collection::vec(-1f32..1.0, all..=all).prop_map(move |numbers| Case {
                hidden,
                rank,
                neurons,
                outputs,
                numbers,
            })
        })
    }

    impl Case {
        fn parts(&self) -> [&[f32]; 4] {
            let (down, rest) = self.numbers.split_at(self.rank * self.hidden);
            let (up, rest) = rest.split_at(self.outputs * self.neurons * self.rank);
            let (bias, rest) = rest.split_at(self.neurons);
            [down, up, bias, rest]
        }

        fn lowrank(&self, level: Level) -> Lowrank {
            let [down, up, bias, rest] = self.parts();
            let weight: Vec<f32> = rest[..self.neurons].iter().map(|w| w.abs()).collect();
            Lowrank::new(&Factors { down, up, bias, weight: &weight }, self.hidden, self.neurons, level).unwrap()
        }

        fn x(&self) -> &[f32] {
            &self.parts()[3][self.neurons..]
        }
    }

    fn scores(cpu: &Cpu, lowrank: &Lowrank, x: &[f32], hidden: usize) -> Vec<f32> {
        lowrank.scores(cpu, &Inputs::new(cpu, x, hidden, &[lowrank.level()]), Activation::Relu)
    }

    /// The weights of a record as they were coded.
    fn decoded(coded: &Coded, r: usize) -> Vec<f64> {
        let (rows, mut out) = (coded.rows(), vec![0.0; coded.width().next_multiple_of(BLOCK)]);
        for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            values(&rows.coding, rows.level, &rows.record(r), block, out);
        }
        out[..coded.width()].iter().map(|w| f64::from(*w)).collect()
    }

    fn product(coded: &Coded, x: &[f64]) -> Vec<f64> {
        let dot = |r| decoded(coded, r).iter().zip(x).map(|(w, x)| w * x).sum();
        (0..coded.records()).map(dot).collect()
    }

    fn mixed(coded: &Coded, x: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; coded.width()];
        for (r, x) in x.iter().enumerate() {
            sum.iter_mut().zip(decoded(coded, r)).for_each(|(sum, w)| *sum += w * x);
        }
        sum
    }

    /// How far that may be off: by what its factors are off, and by their 15 bits of the largest product.
    fn off_mixed(coded: &Coded, x: &[f64], off: &[f64]) -> Vec<f64> {
        let sizes = |x: &[f64]| -> Vec<f64> {
            let mut sum = vec![0.0; coded.width()];
            for (r, x) in x.iter().enumerate() {
                sum.iter_mut().zip(decoded(coded, r)).for_each(|(sum, w)| *sum += w.abs() * x.abs());
            }
            sum
        };
        // A factor is rounded by what all weights of a group together allow, whichever of them is asked for.
        let largest = |r: usize| decoded(coded, r).iter().fold(0.0f64, |most, w| most.max(w.abs()));
        let group: f64 = x.iter().enumerate().map(|(r, x)| largest(r) * x.abs()).sum();
        sizes(off).iter().zip(sizes(x)).map(|(off, all)| off + 1e-4 * all + 1e-3 * group).collect()
    }

    /// How far a product may be off whose inputs are off by `off`, with roundings of `arithmetic` on the way: for int8
    /// half a step of its group's largest number, which is no more than that of all.
    fn off(coded: &Coded, x: &[f64], off: &[f64], arithmetic: Arithmetic) -> Vec<f64> {
        let largest = x.iter().zip(off).fold(0.0f64, |most, (x, off)| most.max(x.abs() + off));
        let step = if arithmetic == Arithmetic::Integer { largest / 127.0 * 0.51 } else { 0.0 };
        let of = |(x, off): (&f64, &f64)| off + step + 1e-5 * (x.abs() + off);
        let sum = |r| decoded(coded, r).iter().zip(x.iter().zip(off)).map(|(w, x)| w.abs() * of(x)).sum();
        (0..coded.records()).map(sum).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn scores_are_near_the_products_of_what_was_coded(case in case(), arithmetic in arithmetics(), fine in any::<bool>()) {
            let lowrank = case.lowrank(if fine { Level::L8 } else { Level::L4 });
            let cpu = on_two(Isa::detect(), arithmetic);
            let have = scores(&cpu, &lowrank, case.x(), case.hidden);
            for (x, have) in case.x().chunks_exact(case.hidden).zip(have.chunks_exact(case.neurons)) {
                let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                let narrow = product(&lowrank.down, &x);
                let of_narrow = off(&lowrank.down, &x, &vec![0.0; x.len()], arithmetic);
                let outputs = mixed(&lowrank.up, &narrow);
                let off = off_mixed(&lowrank.up, &narrow, &of_narrow);
                for (j, have) in have.iter().enumerate() {
                    let gate = (outputs[j] + f64::from(lowrank.bias[j])).max(0.0);
                    let (up, off_up) = outputs.get(case.neurons + j).map_or((1.0, 0.0), |up| (*up, off[case.neurons + j]));
                    let want = (gate * up).abs() * f64::from(lowrank.weight[j]);
                    let off = off[j] * (up.abs() + off_up) + gate * off_up;
                    prop_assert!((want - f64::from(*have)).abs() <= off + 1e-5 * want.max(1.0), "{want} {have} {off}");
                }
            }
        }

        #[test]
        fn a_token_alone_has_the_scores_it_has_in_a_batch(case in case(), arithmetic in arithmetics()) {
            let lowrank = case.lowrank(Level::L4);
            let want = scores(&on_two(Isa::PORTABLE, arithmetic), &lowrank, case.x(), case.hidden);
            for isa in Isa::available() {
                let cpu = on_two(isa, arithmetic);
                for (x, want) in case.x().chunks_exact(case.hidden).zip(want.chunks_exact(case.neurons)) {
                    prop_assert_eq!(&scores(&cpu, &lowrank, x, case.hidden)[..], want);
                }
            }
        }
    }

    #[test]
    fn bytes_are_those_of_codes_scales_and_vectors() {
        let (down, up, of_neurons) = ([0.5; 70 * 2], [0.5; 3 * 2], [1.0; 3]);
        let factors = Factors { down: &down, up: &up, bias: &of_neurons, weight: &of_neurons };
        let read = |level| Lowrank::new(&factors, 70, 3, level).unwrap().read_bytes();
        assert_eq!(read(Level::L4), 2 * (64 + 4) + 2 * (32 + 2) + 3 * 8);
        assert_eq!(read(Level::L8), read(Level::L4) + 2 * 64 + 2 * 32);
    }

    #[test]
    fn factors_that_do_not_fit_are_refused_by_name() {
        let (down, up, of_neurons) = ([0.5; 70 * 2], [0.5; 3 * 2], [1.0; 3]);
        let good = Factors { down: &down, up: &up, bias: &of_neurons, weight: &of_neurons };
        let why = |factors: Factors| Lowrank::new(&factors, 70, 3, Level::L4).unwrap_err().to_string();
        assert!(why(Factors { down: &down[1..], ..good }).starts_with("the predictor's down has 139 numbers, not 70"));
        assert!(why(Factors { down: &[], up: &[], ..good }).starts_with("the predictor's down has 0 numbers, not 70"));
        assert!(
            why(Factors { up: &up[1..], ..good })
                .starts_with("the predictor's up has 5 numbers, not 6: [ffn, rank] or [2 ffn, rank]")
        );
        assert!(why(Factors { bias: &of_neurons[1..], ..good }).starts_with("the predictor's bias has 2"));
        assert!(why(Factors { bias: &[1.0, f32::NAN, 0.0], ..good }).contains("bias of neuron 1 is NaN"));
        assert!(why(Factors { weight: &[1.0, 1.0, -1.0], ..good }).contains("weight of neuron 2 is -1"));
        assert!(
            why(Factors { up: &[1.0, 1.0, 1.0, 1e9, 0.0, 0.0], ..good })
                .contains("predictor's up by rank, row 1, columns from 0")
        );
        let wide = Lowrank::new(&good, 70, 3, Level::L16).unwrap_err().to_string();
        assert!(wide.contains("coded at 4 or 8"), "{wide}");
    }
}
