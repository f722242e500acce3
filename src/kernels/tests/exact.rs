//! Exact sums against their definition (docs/format.md, 6), its edges, and what must not matter: absent records (in f32
//! as well), threads.

use super::records::{Noise, Records, bits, codings, levels};
use crate::config::{Coding, Form};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::cpu::testing::on;
use crate::kernels::panel::Panel;
use crate::kernels::{Arithmetic, Isa};
use crate::quant::{Rows, cells, codes_u8, values};
use crate::types::{BLOCK, Level};
use half::f16;
use proptest::prelude::*;

/// Records of random bytes, their scales of any size but finite.
fn random(coding: Coding, level: Level, width: usize, count: usize, seed: u64) -> Records {
    Records::new(coding, level, width, count, (0, 0))
        .random(&mut Noise(seed), |noise| f16::from_bits(noise.next() as u16 & 0xfbff))
}

impl Records {
    /// `factors` are `[N][records]`; the result is `[N][width]`.
    fn sums(&self, isa: Isa, factors: &[f32], columns: usize, threads: usize) -> Vec<u32> {
        self.sums_in(Arithmetic::Integer, isa, factors, columns, threads)
    }

    /// In integers where the level has them, or in f32.
    fn sums_in(&self, how: Arithmetic, isa: Isa, factors: &[f32], columns: usize, threads: usize) -> Vec<u32> {
        let mut panel = Panel::new(self.count, columns);
        if self.count > 0 {
            panel = Panel::of_rows(factors, self.count, 0..self.count);
        }
        let mut sum = ChunkSum::new(columns, self.width);
        sum.add(&on(threads, isa, how), &self.rows(), &panel, threads);
        bits(sum.rows())
    }

    /// The definition for one column, weight by weight.
    fn defined(&self, factors: &[f32]) -> Vec<u32> {
        let rows = self.rows();
        bits((0..self.width).map(|i| defined(&rows, factors, i)))
    }
}

/// One sum, as docs/format.md writes it.
pub fn defined(rows: &Rows, factors: &[f32], i: usize) -> f32 {
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

impl Noise {
    /// Around 1, and one in `zeros` an exact zero of either sign.
    pub fn factor(&mut self, zeros: u64) -> f32 {
        let value = self.unit();
        if self.next().is_multiple_of(zeros) { 0.0f32.copysign(value) } else { value }
    }
}

/// At levels of integers.
fn records() -> impl Strategy<Value = Records> {
    records_at(prop_oneof![Just(Level::L4), Just(Level::L8)])
}

fn records_at(level: impl Strategy<Value = Level>) -> impl Strategy<Value = Records> {
    let count = prop_oneof![4 => 1usize..40, 1 => Just(256usize)];
    (codings(), level, 1usize..1300, count, any::<u64>())
        .prop_map(|(coding, level, width, count, seed)| random(coding, level, width, count, seed))
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
                let used = column.iter().zip(0..).filter(|(h, _)| **h != 0.0);
                let (used, places): (Vec<f32>, Vec<u32>) = used.unzip();
                prop_assert_eq!(&records.copied(&places).sums(isa, &used, 1, 2), sums, "{}", isa.name());
            }
        }
    }

    /// To the bit, zeros of either sign: a sum begins at +0, which no rounded product, and no sum of two, turns to -0.
    #[test]
    fn in_f32_too_a_record_with_a_factor_of_zero_is_as_good_as_absent(
        records in records_at(levels()),
        columns in 1usize..10,
        zeros in 1u64..5,
        seed in any::<u64>(),
    ) {
        let mut noise = Noise(seed);
        let factors: Vec<f32> = (0..records.count * columns).map(|_| noise.factor(zeros)).collect();
        for isa in Isa::available() {
            let all = records.sums_in(Arithmetic::Float, isa, &factors, columns, 2);
            prop_assert!(!all.contains(&(-0.0f32).to_bits()), "{}", isa.name());
            for (column, sums) in factors.chunks_exact(records.count).zip(all.chunks_exact(records.width)) {
                let used = column.iter().zip(0..).filter(|(h, _)| **h != 0.0);
                let (used, places): (Vec<f32>, Vec<u32>) = used.unzip();
                let without = records.copied(&places).sums_in(Arithmetic::Float, isa, &used, 1, 2);
                prop_assert_eq!(&without, sums, "{}", isa.name());
            }
        }
    }
}

#[test]
fn what_a_column_does_not_use_costs_it_no_precision() {
    let coding = Coding { form: Form::Affine, group: 64, cells: [1, 1, 1] };
    let mut records = random(coding, Level::L4, 64, 2, 7);
    records.set_scales(0, |_| f16::from_f32(1000.0));
    records.set_scales(1, |_| f16::from_f32(0.001));
    let mut weights = [0.0; BLOCK];
    values(&coding, Level::L4, &records.rows().record(1), 0, &mut weights);
    for isa in Isa::available() {
        let sums = records.sums(isa, &[0.0, 1.0], 1, 1).into_iter().map(f32::from_bits);
        assert!(sums.zip(weights).all(|(sum, weight)| (sum / weight - 1.0).abs() < 1e-6), "{}", isa.name());
    }
}

/// What holds for weights that are numbers does not hide those that are none: 0 times infinity is seen.
#[test]
fn a_factor_of_zero_hides_no_damage() {
    let coding = Coding { form: Form::Symmetric, group: 64, cells: [1, 1, 1] };
    for level in [Level::L4, Level::L8, Level::L16] {
        let mut records = random(coding, level, 64, 2, 7);
        records.set_scales(1, |_| f16::INFINITY);
        for (isa, how) in
            Isa::available().into_iter().flat_map(|isa| [(isa, Arithmetic::Integer), (isa, Arithmetic::Float)])
        {
            let sums = records.sums_in(how, isa, &[1.0, -0.0], 1, 1).into_iter().map(f32::from_bits);
            assert!(sums.into_iter().all(f32::is_nan), "{} at {level:?} in {how:?}", isa.name());
        }
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
            let mut records = random(coding, level, 130, 3, 5);
            records.set_scales(0, |_| f16::from_f32(1e-3));
            records.set_scales(1, |_| scale);
            records.set_scales(2, |_| f16::from_f32(1e-6));
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
        let (records, mut noise) = (random(coding, level, width, 19, 3), Noise(1));
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
