//! What a query head is worth to a token, foretold from its input: a linear guess at the size of what the head will add.
//! Fitted on the Python side (ridge regression); computed here.

use super::coded::Coded;
use super::lowrank::rows_of;
use crate::error::{Error, Result};
use crate::kernels::Cpu;
use crate::kernels::project::Inputs;
use crate::types::Level;

/// A layer's scores of heads.
#[derive(Debug)]
pub struct HeadScores {
    weights: Coded,
    bias: Vec<f32>,
}

impl HeadScores {
    /// What the weights are coded at, and their inputs have to be ready for: at 4 bits a score's error would be of the
    /// size of what tells heads apart, and 8 bits of one row a head are next to nothing beside the head's own 2 x 128.
    pub const LEVEL: Level = Level::L8;

    /// From `weights [heads, hidden]` and `bias [heads]`.
    ///
    /// # Errors
    /// `Error::Usage` for other shapes, and for numbers that are not finite or beyond an f16 scale; `Error::Memory`.
    pub fn new(weights: &[f32], bias: &[f32], hidden: usize, heads: usize) -> Result<HeadScores> {
        let shapes =
            [("weights", weights.len(), heads * hidden, "[heads, hidden]"), ("bias", bias.len(), heads, "[heads]")];
        if let Some((name, have, want, shape)) = shapes.iter().find(|(_, have, want, _)| have != want) {
            return Err(Error::usage(format!(
                "the head predictor's {name} has {have} numbers, not {want}: {shape} with {heads} heads, hidden {hidden}"
            )));
        }
        if let Some(head) = bias.iter().position(|bias| !bias.is_finite()) {
            return Err(Error::usage(format!(
                "the head predictor's bias of head {head} is {}; it must be finite",
                bias[head]
            )));
        }
        let weights = Coded::new("the head predictor's weights", weights, hidden, Self::LEVEL)?;
        Ok(HeadScores { weights, bias: bias.to_vec() })
    }

    /// Scores of N tokens, `[N][heads]`: weights . x + bias. Each rests on its token alone.
    ///
    /// # Panics
    /// If the inputs are not as wide as the weights, or were not prepared for [`HeadScores::LEVEL`].
    pub fn scores(&self, cpu: &Cpu, inputs: &Inputs) -> Vec<f32> {
        let mut scores = rows_of(cpu, &self.weights, inputs);
        for row in scores.chunks_exact_mut(self.bias.len()) {
            row.iter_mut().zip(&self.bias).for_each(|(score, bias)| *score += bias);
        }
        scores
    }

    /// Bytes that scoring a token reads.
    pub fn read_bytes(&self) -> u64 {
        self.weights.read_bytes() + size_of_val(&self.bias[..]) as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::kernels::testing::{arithmetics, on_two};
    use crate::kernels::{Arithmetic, Isa};
    use proptest::prelude::*;

    /// Hidden size, heads, and numbers of weights, biases and tokens.
    fn case() -> impl Strategy<Value = (usize, usize, [Vec<f32>; 3])> {
        (1usize..200, 1usize..9, 1usize..6).prop_flat_map(|(hidden, heads, columns)| {
            let numbers = |count: usize, most: f32| prop::collection::vec(-most..most, count);
            let all = [numbers(heads * hidden, 1.0), numbers(heads, 100.0), numbers(columns * hidden, 1.0)];
            (Just(hidden), Just(heads), all)
        })
    }

    /// How far int8 may be off: half a step of its group's largest number, which is no more than that of all.
    fn half_step(numbers: &[f32]) -> f32 {
        numbers.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0 * 0.51
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn scores_are_products_and_biases((hidden, heads, [weights, bias, x]) in case(), arithmetic in arithmetics()) {
            let cpu = on_two(Isa::detect(), arithmetic);
            let inputs = Inputs::new(&cpu, &x, hidden, &[HeadScores::LEVEL]);
            let have = HeadScores::new(&weights, &bias, hidden, heads).unwrap().scores(&cpu, &inputs);
            let off_w = half_step(&weights);
            for (n, x) in x.chunks_exact(hidden).enumerate() {
                let off_x = if arithmetic == Arithmetic::Integer { half_step(x) } else { 0.0 };
                for (h, weights) in weights.chunks_exact(hidden).enumerate() {
                    let pairs = || weights.iter().zip(x);
                    let want = pairs().map(|(w, x)| w * x).sum::<f32>() + bias[h];
                    let off = pairs().map(|(w, x)| w.abs() * off_x + (x.abs() + off_x) * off_w).sum::<f32>();
                    let have = have[n * heads + h];
                    prop_assert!((have - want).abs() <= off + 1e-5 * want.abs().max(1.0), "{have} {want} {off}");
                }
            }
        }
    }

    #[test]
    fn bytes_are_those_of_codes_scales_and_biases() {
        let scores = HeadScores::new(&[1.0; 3 * 70], &[0.0; 3], 70, 3).unwrap();
        assert_eq!(scores.read_bytes(), 3 * (128 + 4) + 12);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let why = |weights: &[f32], bias: &[f32]| HeadScores::new(weights, bias, 4, 2).unwrap_err().to_string();
        assert!(why(&[0.0; 7], &[0.0; 2]).starts_with("the head predictor's weights has 7 numbers, not 8"));
        assert!(why(&[0.0; 8], &[0.0; 3]).starts_with("the head predictor's bias has 3 numbers, not 2"));
        assert!(why(&[0.0; 8], &[0.0, f32::NAN]).contains("bias of head 1 is NaN"));
        assert!(why(&[0.0, 0.0, 0.0, 0.0, f32::INFINITY, 0.0, 0.0, 0.0], &[0.0; 2]).contains("row 1"));
    }
}
