//! Exact sums against their definition (docs/format.md, 6), its edges, and what must not matter: absent records, threads.
#![allow(clippy::unwrap_used)]

use super::Isa;
use super::accumulate::ChunkSum;
use super::panel::Panel;
use crate::config::{Coding, Form};
use crate::quant::{Column, Rows, cells, codes_u8, values};
use crate::types::{BLOCK, Level};
use half::f16;
use proptest::prelude::*;
use rayon::ThreadPoolBuilder;

/// Records of random bytes.
#[derive(Clone, Debug)]
struct Records {
    coding: Coding,
    level: Level,
    width: usize,
    count: usize,
    planes: Vec<Vec<u8>>,
}

impl Records {
    fn random(coding: Coding, level: Level, width: usize, count: usize, seed: u64) -> Records {
        let mut noise = Noise(seed);
        let mut planes: Vec<Vec<u8>> = level.planes().iter().map(|p| vec![0; coding.plane_bytes(*p, width)]).collect();
        planes.iter_mut().for_each(|plane| *plane = plane.repeat(count));
        planes.iter_mut().flatten().for_each(|byte| *byte = noise.next() as u8);
        let mut records = Records { coding, level, width, count, planes };
        for r in 0..count {
            // Of any size, all finite.
            records.scales(r, |_| f16::from_bits(noise.next() as u16 & 0xfbff));
        }
        records
    }

    /// Replaces the scales of record `r`.
    fn scales(&mut self, r: usize, mut scale: impl FnMut(usize) -> f16) {
        let (stride, scales) = (self.planes[0].len() / self.count, self.coding.scale_bytes(self.width));
        let record = &mut self.planes[0][r * stride..][..stride];
        for (i, to) in record[stride - scales..].as_chunks_mut().0.iter_mut().enumerate() {
            *to = scale(i).to_le_bytes();
        }
    }

    /// Those that `keep` says.
    fn kept(&self, keep: &[bool]) -> Records {
        let count = keep.iter().filter(|keep| **keep).count();
        let kept = |plane: &Vec<u8>| {
            let records = plane.chunks_exact(plane.len() / self.count.max(1)).zip(keep);
            records.filter(|(_, keep)| **keep).flat_map(|(record, _)| record).copied().collect()
        };
        Records { count, planes: self.planes.iter().map(kept).collect(), ..self.clone() }
    }

    fn rows(&self) -> Rows<'_> {
        let columns = self.level.planes().iter().zip(&self.planes).map(|(plane, bytes)| {
            let stride = self.coding.plane_bytes(*plane, self.width);
            Column { bytes, stride, offset: 0 }
        });
        let Records { coding, level, width, count, .. } = *self;
        Rows { coding, level, width, count, columns: columns.collect() }
    }

    /// `factors` are `[N][records]`; the result is `[N][width]`.
    fn sums(&self, isa: Isa, factors: &[f32], columns: usize, threads: usize) -> Vec<u32> {
        let mut panel = Panel::new(self.count, columns);
        if self.count > 0 {
            panel = Panel::of_rows(factors, self.count, 0..self.count);
        }
        let mut sum = ChunkSum::new(columns, self.width);
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| sum.add(isa, true, &self.rows(), &panel, threads));
        sum.rows().into_iter().map(bits).collect()
    }

    /// The definition for one column, weight by weight.
    fn defined(&self, factors: &[f32]) -> Vec<u32> {
        let rows = self.rows();
        (0..self.width).map(|i| bits(defined(&rows, factors, i))).collect()
    }
}

/// One sum, as docs/format.md writes it.
fn defined(rows: &Rows, factors: &[f32], i: usize) -> f32 {
    let record = |r: usize| cells(&rows.coding, rows.level, rows.record(r).scales, i / rows.coding.group);
    let p: Vec<f32> = factors.iter().enumerate().map(|(r, h)| h * record(r).width).collect();
    let most = p.iter().fold(0.0, |m: f32, p| if m.is_nan() || p.is_nan() { f32::NAN } else { m.max(p.abs()) });
    let (mut dot, mut offset) = (0i64, 0.0f32);
    for (r, h) in factors.iter().enumerate() {
        let code = codes_u8(rows.level, &rows.record(r), i / BLOCK)[i % BLOCK / 32][i % 32];
        let q = if most < 1e-30 || !most.is_finite() { 0.0 } else { (p[r] * (32512.0 / most)).round_ties_even() };
        dot += q as i64 * i64::from(code);
        offset = h.mul_add(record(r).origin, offset);
    }
    (most / 32512.0).mul_add(dot as f32, offset) + 0.0
}

/// Bits, with one for all that are not a number.
fn bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// Around 1, and one in `zeros` an exact zero of either sign.
    fn factor(&mut self, zeros: u64) -> f32 {
        let value = self.next() as f32 / (1u64 << 30) as f32 - 1.0;
        if self.next().is_multiple_of(zeros) { 0.0f32.copysign(value) } else { value }
    }
}

fn records() -> impl Strategy<Value = Records> {
    let form = prop_oneof![Just(Form::Symmetric), Just(Form::Affine)];
    let coding = (form, prop_oneof![3 => Just(64usize), 1 => Just(32)], 0u8..2, 0u8..2);
    let coding = coding.prop_map(|(form, group, four, eight)| Coding { form, group, cells: [four, eight, 1] });
    let level = prop_oneof![Just(Level::L4), Just(Level::L8)];
    let count = prop_oneof![4 => 1usize..40, 1 => Just(256usize)];
    (coding, level, 1usize..1300, count, any::<u64>())
        .prop_map(|(coding, level, width, count, seed)| Records::random(coding, level, width, count, seed))
}

proptest! {
    #[test]
    fn sums_are_the_defined_ones(records in records(), seed in any::<u64>(), size in -35i32..25) {
        let mut noise = Noise(seed);
        let factors: Vec<f32> = (0..records.count).map(|_| noise.factor(9) * 10f32.powi(size)).collect();
        let want = records.defined(&factors);
        for isa in Isa::available() {
            prop_assert_eq!(&records.sums(isa, &factors, 1, 1), &want, "{}", isa.name());
        }
    }

    #[test]
    fn a_record_with_a_factor_of_zero_is_as_good_as_absent(
        records in records(),
        columns in 1usize..10,
        zeros in 2u64..5,
        seed in any::<u64>(),
    ) {
        let mut noise = Noise(seed);
        let factors: Vec<f32> = (0..records.count * columns).map(|_| noise.factor(zeros)).collect();
        for isa in Isa::available() {
            let all = records.sums(isa, &factors, columns, 2);
            for (column, sums) in factors.chunks_exact(records.count).zip(all.chunks_exact(records.width)) {
                let keep: Vec<bool> = column.iter().map(|h| *h != 0.0).collect();
                let used: Vec<f32> = column.iter().copied().filter(|h| *h != 0.0).collect();
                prop_assert_eq!(&records.kept(&keep).sums(isa, &used, 1, 2), sums, "{}", isa.name());
            }
        }
    }
}

#[test]
fn what_a_column_does_not_use_costs_it_no_precision() {
    let coding = Coding { form: Form::Affine, group: 64, cells: [1, 1, 1] };
    let mut records = Records::random(coding, Level::L4, 64, 2, 7);
    records.scales(0, |_| f16::from_f32(1000.0));
    records.scales(1, |_| f16::from_f32(0.001));
    let mut weights = [0.0; BLOCK];
    values(&coding, Level::L4, &records.rows().record(1), 0, &mut weights);
    for isa in Isa::available() {
        let sums = records.sums(isa, &[0.0, 1.0], 1, 1).into_iter().map(f32::from_bits);
        assert!(sums.zip(weights).all(|(sum, weight)| (sum / weight - 1.0).abs() < 1e-6), "{}", isa.name());
    }
}

/// Products of every size and none: all sets give what is defined, and damage is seen.
#[test]
fn edges_are_as_defined() {
    let scales = [0.0, -0.0, 6e-8, 1.0, 65504.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN].map(f16::from_f32);
    let factors =
        [0.0, -0.0, 1e-45, 1e-38, 1e-30, 1.6e-29, -1e-25, 1.0, 1e34, f32::MAX, f32::INFINITY, f32::NAN, -f32::INFINITY];
    for form in [Form::Affine, Form::Symmetric] {
        let coding = Coding { form, group: 64, cells: [1, 1, 1] };
        for (level, scale) in [Level::L4, Level::L8].into_iter().flat_map(|level| scales.map(|scale| (level, scale))) {
            let mut records = Records::random(coding, level, 130, 3, 5);
            records.scales(0, |_| f16::from_f32(1e-3));
            records.scales(1, |_| scale);
            records.scales(2, |_| f16::from_f32(1e-6));
            for h in factors {
                check_edge(&records, [0.0, h, 0.0], scale);
                check_edge(&records, [1e-32, h, 1e-30], scale);
                check_edge(&records, [1e-3, h, -1.0], scale);
            }
        }
    }
}

fn check_edge(records: &Records, factors: [f32; 3], scale: f16) {
    let want = records.defined(&factors);
    let damaged = factors.iter().any(|h| !h.is_finite()) || !scale.is_finite();
    if damaged {
        assert!(want.iter().all(|sum| !f32::from_bits(*sum).is_finite()), "{factors:?} with {scale} hides damage");
    }
    for isa in Isa::available() {
        assert_eq!(records.sums(isa, &factors, 1, 1), want, "{}: {factors:?} with {scale}", isa.name());
        let twice = records.sums(isa, &[factors, factors].concat(), 2, 1);
        assert_eq!(twice, [want.clone(), want.clone()].concat(), "{}: {factors:?} with {scale}", isa.name());
    }
}

#[test]
fn numbers_of_threads_change_no_bit() {
    let coding = Coding { form: Form::Affine, group: 64, cells: [1, 1, 1] };
    // A task of one column takes 64 blocks at a time: 4096 is one such part, the widest here are four and three.
    let one = [(Level::L4, 4096, 1), (Level::L4, 4160, 1), (Level::L4, 12352, 1), (Level::L8, 8256, 1)];
    let more = [(Level::L8, 2500, 3), (Level::L4, 1100, 9), (Level::L16, 1990, 2)];
    for (level, width, columns) in one.into_iter().chain(more) {
        let (records, mut noise) = (Records::random(coding, level, width, 19, 3), Noise(1));
        let factors: Vec<f32> = (0..19 * columns).map(|_| noise.factor(9)).collect();
        let want = records.sums(Isa::PORTABLE, &factors, columns, 1);
        for isa in Isa::available() {
            for threads in [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 23, 40, 64] {
                let have = records.sums(isa, &factors, columns, threads);
                assert!(have == want, "{} with {threads} threads, {width} wide", isa.name());
            }
        }
    }
}
