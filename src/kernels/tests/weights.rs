//! Products with records against sums over their decoded weights in f64; threads, sets and neighbours.

use super::records::{Noise, Records, bits, codings, levels, panel_bits};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::cpu::testing::{arithmetics, on};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project};
use crate::kernels::{Arithmetic, Isa};
use crate::quant::values;
use crate::types::BLOCK;
use proptest::prelude::*;

/// f32 sums of up to 200 terms against f64, per unit of the sum of absolute terms.
const SUM_RELATIVE: f64 = 200.0 * f32::EPSILON as f64;

/// Records, inputs and everything that decides what a kernel computes.
#[derive(Clone, Debug)]
struct Case {
    records: Records,
    /// `[N][width]`.
    x: Vec<f32>,
    columns: usize,
}

fn cases() -> impl Strategy<Value = Case> {
    let columns = prop_oneof![4 => 1usize..9, 1 => 9usize..40];
    (codings(), levels(), 1usize..200, 1usize..40, columns, any::<u64>()).prop_map(
        |(coding, level, width, records, columns, seed)| {
            let mut noise = Noise(seed);
            let weights: Vec<f32> = (0..records * width).map(|_| noise.unit()).collect();
            let x = (0..columns * width).map(|_| noise.unit()).collect();
            Case { records: Records::encoded(coding, level, width, &weights), x, columns }
        },
    )
}

impl Case {
    fn decoded(&self, r: usize) -> Vec<f64> {
        let rows = self.records.rows();
        let mut out = vec![0f32; rows.blocks() * BLOCK];
        for (block, part) in out.chunks_exact_mut(BLOCK).enumerate() {
            values(&rows.coding, rows.level, &rows.record(r), block, part);
        }
        out[..self.records.width].iter().map(|v| f64::from(*v)).collect()
    }

    fn project(&self, isa: Isa, arithmetic: Arithmetic, threads: usize) -> Vec<u32> {
        let mut out = Panel::new(self.records.count, self.columns);
        let cpu = on(threads, isa, arithmetic);
        let inputs = Inputs::new(&cpu, &self.x, self.records.width, &[self.records.level]);
        project(&cpu, &self.records.rows(), &inputs, &mut out);
        panel_bits(&out)
    }

    /// Factors, `[N][records]`.
    fn factors(&self) -> Vec<f32> {
        (0..self.records.count * self.columns).map(|i| self.x[i % self.x.len()]).collect()
    }

    /// Records in two calls where f32 sums go by record; exact sums of a call belong together.
    fn accumulate(&self, isa: Isa, arithmetic: Arithmetic, threads: usize, cut: usize) -> Vec<u32> {
        let factors = self.factors();
        let cpu = on(threads, isa, arithmetic);
        let mut sum = ChunkSum::new(self.columns, self.records.width);
        let exact = arithmetic.is_integer(self.records.level);
        let (rows, cut) = (self.records.rows(), if exact { 0 } else { cut.min(self.records.count) });
        for part in [0..cut, cut..self.records.count].into_iter().filter(|part| !part.is_empty()) {
            let panel = Panel::of_rows(&factors, self.records.count, part.clone());
            sum.add(&cpu, &rows.slice(part.start, part.end), &panel, threads);
        }
        bits(sum.rows())
    }

    /// The activations a projection really uses: those of int8 times their scale where it quantises.
    fn used(&self, arithmetic: Arithmetic) -> Vec<f64> {
        let f64s = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect();
        if !arithmetic.is_integer(self.records.level) {
            return f64s(&self.x);
        }
        self.x.chunks_exact(self.records.width).flat_map(|row| row.chunks(BLOCK).flat_map(int8_values)).collect()
    }
}

/// The definition in docs/format.md, apart from the kernels' own quantiser.
fn int8_values(group: &[f32]) -> Vec<f64> {
    let max = group.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    group.iter().map(|v| f64::from((v * (127.0 / max)).round_ties_even()) * f64::from(max / 127.0)).collect()
}

proptest! {
    #[test]
    fn projections_match_the_decoded_weights(case in cases(), arithmetic in arithmetics()) {
        let x = case.used(arithmetic);
        let out = case.project(Isa::detect(), arithmetic, 2);
        for r in 0..case.records.count {
            let weights = case.decoded(r);
            for n in 0..case.columns {
                let terms: Vec<f64> = weights.iter().zip(&x[n * case.records.width..]).map(|(w, x)| w * x).collect();
                let (exact, size) = (terms.iter().sum::<f64>(), terms.iter().map(|t| t.abs()).sum::<f64>());
                let have = f64::from(f32::from_bits(out[n * case.records.count + r]));
                prop_assert!((have - exact).abs() <= SUM_RELATIVE * (size + 1.0), "{have} for {exact}");
            }
        }
    }

    #[test]
    fn accumulations_match_the_decoded_weights(case in cases(), arithmetic in arithmetics()) {
        let out = case.accumulate(Isa::detect(), arithmetic, 2, 0);
        let (factors, exact) = (case.factors(), arithmetic.is_integer(case.records.level));
        for n in 0..case.columns {
            let factors = &factors[n * case.records.count..][..case.records.count];
            let largest = factors.iter().fold(0.0f32, |m, h| m.max(h.abs()));
            for i in 0..case.records.width {
                let want: f64 = (0..case.records.count).map(|r| f64::from(factors[r]) * case.decoded(r)[i]).sum();
                let have = f64::from(f32::from_bits(out[n * case.records.width + i]));
                // Weights lie in -1..1, so a cell is 2 / 2^bits at most, and a factor is half a step off.
                let steps = f64::from(largest) * 2.0 / f64::from(2 * 32512);
                let rounding = if exact { steps * case.records.count as f64 } else { 0.0 };
                let tolerance = SUM_RELATIVE * case.records.count as f64 + rounding;
                prop_assert!((have - want).abs() <= tolerance, "{have} for {want}");
            }
        }
    }

    #[test]
    fn instruction_sets_and_threads_change_no_bit(case in cases(), arithmetic in arithmetics(), cut in 0usize..40) {
        let (dots, sums) = (case.project(Isa::PORTABLE, arithmetic, 1), case.accumulate(Isa::PORTABLE, arithmetic, 1, 0));
        for isa in Isa::available() {
            for threads in [1, 3] {
                prop_assert_eq!(&case.project(isa, arithmetic, threads), &dots, "{}", isa.name());
                prop_assert_eq!(&case.accumulate(isa, arithmetic, threads, cut), &sums, "{}", isa.name());
            }
        }
    }

    #[test]
    fn a_columns_bits_do_not_depend_on_its_neighbours(case in cases(), arithmetic in arithmetics()) {
        let dots = case.project(Isa::detect(), arithmetic, 2);
        for n in 0..case.columns {
            let x = case.x[n * case.records.width..(n + 1) * case.records.width].to_vec();
            let alone = Case { x, columns: 1, ..case.clone() };
            prop_assert_eq!(alone.project(Isa::detect(), arithmetic, 2), &dots[n * case.records.count..][..case.records.count]);
        }
        let sums = case.accumulate(Isa::detect(), arithmetic, 2, 0);
        for (n, factors) in case.factors().chunks(case.records.count).enumerate() {
            let alone = Case { x: factors.to_vec(), columns: 1, ..case.clone() };
            prop_assert_eq!(alone.accumulate(Isa::detect(), arithmetic, 2, 0), &sums[n * case.records.width..][..case.records.width]);
        }
    }
}
