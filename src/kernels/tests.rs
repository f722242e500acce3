#![allow(clippy::unwrap_used)]

use super::Isa;
use super::accumulate::ChunkSum;
use super::panel::Panel;
use super::project::{Inputs, project};
use crate::config::{Coding, Form};
use crate::quant::{Column, Rows, encode_record, values};
use crate::types::{BLOCK, Level, Plane};
use proptest::prelude::*;
use rayon::ThreadPoolBuilder;

/// f32 sums of up to 200 terms against f64, per unit of the sum of absolute terms.
const SUM_RELATIVE: f64 = 200.0 * f32::EPSILON as f64;

/// Records, inputs and everything that decides what a kernel computes.
#[derive(Clone, Debug)]
struct Case {
    coding: Coding,
    level: Level,
    width: usize,
    planes: Vec<Vec<u8>>,
    records: usize,
    /// `[N][width]`.
    x: Vec<f32>,
    count: usize,
}

fn cases() -> impl Strategy<Value = Case> {
    let coding = (prop_oneof![Just(Form::Symmetric), Just(Form::Affine)], prop_oneof![Just(64usize), Just(32)])
        .prop_map(|(form, group)| Coding { form, group, cells: [1, 1, 1] });
    let level = prop_oneof![Just(Level::L4), Just(Level::L8), Just(Level::L16)];
    (coding, level, 1usize..200, 1usize..40, prop_oneof![4 => 1usize..9, 1 => 9usize..40], any::<u64>()).prop_map(
        |(coding, level, width, records, count, seed)| {
            let mut noise = Noise(seed);
            let weights: Vec<f32> = (0..records * width).map(|_| noise.next()).collect();
            let x = (0..count * width).map(|_| noise.next()).collect();
            Case { coding, level, width, planes: encode(&coding, width, &weights), records, x, count }
        },
    )
}

/// A small generator, so that one seed makes a case.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn encode(coding: &Coding, width: usize, weights: &[f32]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![vec![]; 3];
    for row in weights.chunks_exact(width) {
        let mut planes: Vec<Vec<u8>> = Plane::ALL.iter().map(|p| vec![0; coding.plane_bytes(*p, width)]).collect();
        let mut views: Vec<&mut [u8]> = planes.iter_mut().map(Vec::as_mut_slice).collect();
        encode_record(coding, row, &mut views).unwrap();
        all.iter_mut().zip(planes).for_each(|(all, plane)| all.extend(plane));
    }
    all
}

impl Case {
    fn rows(&self) -> Rows<'_> {
        let columns = self.planes.iter().take(self.level.plane_count());
        let columns = columns.map(|p| Column { bytes: p, stride: p.len() / self.records, offset: 0 }).collect();
        Rows { coding: self.coding, level: self.level, width: self.width, count: self.records, columns }
    }

    fn decoded(&self, r: usize) -> Vec<f64> {
        let rows = self.rows();
        let mut out = vec![0f32; rows.blocks() * BLOCK];
        for (block, part) in out.chunks_exact_mut(BLOCK).enumerate() {
            values(&self.coding, self.level, &rows.record(r), block, part);
        }
        out[..self.width].iter().map(|v| f64::from(*v)).collect()
    }

    fn project(&self, isa: Isa, int8: bool, threads: usize) -> Vec<u32> {
        let mut out = Panel::new(self.records, self.count);
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let inputs = Inputs::new(isa, &self.x, self.width, int8 && self.level != Level::L16);
            project(isa, &self.rows(), &inputs, &mut out);
        });
        by_column(&out)
    }

    /// Factors, `[N][records]`.
    fn factors(&self) -> Vec<f32> {
        (0..self.records * self.count).map(|i| self.x[i % self.x.len()]).collect()
    }

    /// Records in two calls where f32 sums go by record; exact sums of a call belong together.
    fn accumulate(&self, isa: Isa, int8: bool, threads: usize, cut: usize) -> Vec<u32> {
        let factors = self.factors();
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut sum = ChunkSum::new(self.count, self.width);
        let exact = int8 && self.level != Level::L16;
        let (rows, cut) = (self.rows(), if exact { 0 } else { cut.min(self.records) });
        pool.install(|| {
            for part in [0..cut, cut..self.records].into_iter().filter(|part| !part.is_empty()) {
                let panel = Panel::of_rows(&factors, self.records, part.clone());
                sum.add(isa, int8, &rows.slice(part.start, part.end), &panel, threads);
            }
        });
        sum.rows().into_iter().map(f32::to_bits).collect()
    }

    /// The activations a projection really uses: int8 ones times their scale where it quantises.
    fn used(&self, int8: bool) -> Vec<f64> {
        let f64s = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect();
        if !int8 || self.level == Level::L16 {
            return f64s(&self.x);
        }
        self.x.chunks_exact(self.width).flat_map(|row| row.chunks(BLOCK).flat_map(int8_values)).collect()
    }
}

/// The definition in docs/format.md, apart from the kernels' own quantiser.
fn int8_values(group: &[f32]) -> Vec<f64> {
    let max = group.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    group.iter().map(|v| f64::from((v * (127.0 / max)).round_ties_even()) * f64::from(max / 127.0)).collect()
}

proptest! {
    #[test]
    fn projections_match_the_decoded_weights(case in cases(), int8 in any::<bool>()) {
        let x = case.used(int8);
        let out = case.project(Isa::detect(), int8, 2);
        for r in 0..case.records {
            let weights = case.decoded(r);
            for n in 0..case.count {
                let terms: Vec<f64> = weights.iter().zip(&x[n * case.width..]).map(|(w, x)| w * x).collect();
                let (exact, size) = (terms.iter().sum::<f64>(), terms.iter().map(|t| t.abs()).sum::<f64>());
                let have = f64::from(f32::from_bits(out[n * case.records + r]));
                prop_assert!((have - exact).abs() <= SUM_RELATIVE * (size + 1.0), "{have} for {exact}");
            }
        }
    }

    #[test]
    fn accumulations_match_the_decoded_weights(case in cases(), int8 in any::<bool>()) {
        let out = case.accumulate(Isa::detect(), int8, 2, 0);
        let (factors, exact) = (case.factors(), int8 && case.level != Level::L16);
        for n in 0..case.count {
            let factors = &factors[n * case.records..][..case.records];
            let largest = factors.iter().fold(0.0f32, |m, h| m.max(h.abs()));
            for i in 0..case.width {
                let want: f64 = (0..case.records).map(|r| f64::from(factors[r]) * case.decoded(r)[i]).sum();
                let have = f64::from(f32::from_bits(out[n * case.width + i]));
                // Weights lie in -1..1, so a cell is 2 / 2^bits at most, and a factor is half a step off.
                let steps = f64::from(largest) * 2.0 / f64::from(2 * 32512);
                let rounding = if exact { steps * case.records as f64 } else { 0.0 };
                let tolerance = SUM_RELATIVE * case.records as f64 + rounding;
                prop_assert!((have - want).abs() <= tolerance, "{have} for {want}");
            }
        }
    }

    #[test]
    fn instruction_sets_and_threads_change_no_bit(case in cases(), int8 in any::<bool>(), cut in 0usize..40) {
        let (dots, sums) = (case.project(Isa::PORTABLE, int8, 1), case.accumulate(Isa::PORTABLE, int8, 1, 0));
        for isa in Isa::available() {
            for threads in [1, 3] {
                prop_assert_eq!(&case.project(isa, int8, threads), &dots, "{}", isa.name());
                prop_assert_eq!(&case.accumulate(isa, int8, threads, cut), &sums, "{}", isa.name());
            }
        }
    }

    #[test]
    fn a_columns_bits_do_not_depend_on_its_neighbours(case in cases(), int8 in any::<bool>()) {
        let dots = case.project(Isa::detect(), int8, 2);
        for n in 0..case.count {
            let x = case.x[n * case.width..(n + 1) * case.width].to_vec();
            let alone = Case { x, count: 1, ..case.clone() };
            prop_assert_eq!(alone.project(Isa::detect(), int8, 2), &dots[n * case.records..][..case.records]);
        }
        let sums = case.accumulate(Isa::detect(), int8, 2, 0);
        for (n, factors) in case.factors().chunks(case.records).enumerate() {
            let alone = Case { x: factors.to_vec(), count: 1, ..case.clone() };
            prop_assert_eq!(alone.accumulate(Isa::detect(), int8, 2, 0), &sums[n * case.width..][..case.width]);
        }
    }
}

/// `[N][records]`.
fn by_column(panel: &Panel) -> Vec<u32> {
    (0..panel.count()).flat_map(|n| panel.column(n)).map(f32::to_bits).collect()
}
