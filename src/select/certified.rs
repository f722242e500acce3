//! Certified sparsity: neurons that coarse planes prove to be off at a finer level, as its own kernel would compute them.
//!
//! For an activation that is 0 up to 0 (relu, relu2, relu6) such a neuron's value is ±0, whatever up gives, as long as that
//! is finite; and a factor of ±0 changes no bit of a sum whose scales are finite (docs/format.md, 6). So what is left gives
//! the bits of all.
//!
//! Nothing is proven of a token whose activations are so large, or of a neuron whose biases are so large, that up could
//! overflow: NaN of 0 times infinity must stay. Scales of a record are finite in every store that `convert` makes; records
//! with others, which break docs/format.md, 6, are never proven off by their gate, while up and down are not looked at.

use super::interval::{Interval, LARGEST, Norms};
use crate::config::Coding;
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project};
use crate::kernels::{Arithmetic, Cpu, Isa};
use crate::quant::Rows;
use crate::types::Level;

/// Tokens of which neurons are to be proven off at a level.
#[derive(Debug)]
pub struct Prover {
    /// That of the level, which the coarse dots are then computed in too: both kernels meet the same numbers.
    arithmetic: Arithmetic,
    level: Level,
    inputs: Inputs,
    /// None for a token that nothing is proven of.
    norms: Vec<Option<Norms>>,
}

/// Records of the matrix that is activated: gate, or up in an FFN without.
#[derive(Clone, Copy, Debug)]
pub struct Activated<'a> {
    /// At a level below the prover's.
    pub rows: Rows<'a>,
    /// One for each record, if there are any.
    pub bias: Option<&'a [f32]>,
    /// The biases of up where it is multiplied with the activation, if there are any.
    pub others: Option<&'a [f32]>,
}

impl Prover {
    /// For N tokens, at most 32, whose inputs after the norm are `[N][width]`, at a level above 4.
    pub fn new(cpu: &Cpu, coding: &Coding, level: Level, rows: &[f32], width: usize) -> Prover {
        let integer = cpu.arithmetic.is_integer(level);
        let arithmetic = if integer { Arithmetic::Integer } else { Arithmetic::Float };
        let norms = |row| Some(Norms::of(row, coding.group, integer)).filter(Norms::are_small);
        Prover {
            inputs: Inputs::new(&cpu.with(arithmetic), rows, width, &[Level::L4]),
            norms: rows.chunks_exact(width).map(norms).collect(),
            level,
            arithmetic,
        }
    }

    /// Per record a bit for every token for which it is proven off at the prover's level; computed by whom `cpu` says.
    ///
    /// # Panics
    /// If rows and biases do not fit, or the rows are not at a level below the prover's.
    pub fn off(&self, cpu: &Cpu, activated: &Activated) -> Vec<u32> {
        let Activated { rows, bias, others } = activated;
        assert!(rows.level < self.level, "a proof at {} bits from {}", self.level.bits(), rows.level.bits());
        let fits = |numbers: &Option<&[f32]>| numbers.is_none_or(|numbers| numbers.len() == rows.records);
        assert!(fits(bias) && fits(others), "biases that are not of {} records", rows.records);
        let cpu = cpu.with(self.arithmetic);
        let mut dots = Panel::new(rows.records, self.inputs.columns);
        project(&cpu, rows, &self.inputs, &mut dots);
        let columns: Vec<Vec<f32>> = (0..dots.columns()).map(|n| dots.column(n).collect()).collect();
        let integer = cpu.arithmetic.is_integer(rows.level);
        let interval = Interval::new(rows.coding, rows.level, self.level, rows.blocks(), integer);
        (0..rows.records).map(|r| self.record(cpu.isa, activated, &interval, &columns, r)).collect()
    }

    fn record(&self, isa: Isa, activated: &Activated, interval: &Interval, dots: &[Vec<f32>], r: usize) -> u32 {
        let of = |numbers: Option<&[f32]>| numbers.map_or(0.0, |numbers| f64::from(numbers[r]));
        let (bias, other) = (of(activated.bias), of(activated.others));
        if !(bias.abs() <= LARGEST && other.abs() <= LARGEST) {
            return 0;
        }
        let scales = activated.rows.scales(r);
        let off = |(dots, norms): (&Vec<f32>, &Option<Norms>)| {
            norms.as_ref().is_some_and(|norms| is_off(f64::from(dots[r]), bias, interval.width(isa, scales, norms)))
        };
        dots.iter().zip(&self.norms).enumerate().fold(0, |bits, (n, of)| bits | u32::from(off(of)) << n)
    }
}

/// Whether a dot plus its bias cannot be above 0 within that distance of the coarse one. What is not a number proves
/// nothing.
fn is_off(dot: f64, bias: f64, width: f64) -> bool {
    // Three roundings of at most 2^-53 each.
    let rounding = (dot.abs() + bias.abs() + width) / (1u64 << 50) as f64;
    dot + bias + width + rounding <= 0.0
}

#[cfg(test)]
mod tests;
