#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::Form;
use crate::kernels::records::{Noise, Records, codings};
use crate::kernels::testing::{arithmetics, on_two};
use crate::kernels::{Arithmetic, Isa};
use crate::types::Plane;
use half::f16;
use proptest::prelude::*;
use std::io::Write;

/// A matrix in all planes of its level, and tokens.
#[derive(Clone, Debug)]
struct Case {
    records: Records,
    /// `[N][width]`.
    x: Vec<f32>,
    arithmetic: Arithmetic,
}

impl Case {
    fn fine(&self) -> Level {
        self.records.level
    }

    fn at(&self, level: Level) -> Rows<'_> {
        self.records.rows().to_level(level)
    }

    /// Dots at a level in the arithmetic of the finest, `[N][records]`.
    fn dots(&self, isa: Isa, level: Level) -> Vec<Vec<f32>> {
        let cpu = on_two(isa, self.arithmetic);
        let mut out = Panel::new(self.records.count, self.x.len() / self.records.width);
        project(&cpu, &self.at(level), &Inputs::new(&cpu, &self.x, self.records.width, &[level]), &mut out);
        (0..out.columns()).map(|n| out.column(n).collect()).collect()
    }

    fn off(&self, isa: Isa, level: Level, bias: &[f32]) -> Vec<u32> {
        let cpu = on_two(isa, self.arithmetic);
        let prover = Prover::new(&cpu, &self.records.coding, self.fine(), &self.x, self.records.width);
        prover.off(&cpu, &Activated { rows: self.at(level), bias: Some(bias), others: None })
    }

    /// Levels that proofs can come from.
    fn coarser(&self) -> impl Iterator<Item = Level> {
        [Level::L4, Level::L8].into_iter().filter(|level| *level < self.fine())
    }

    /// Makes all bits behind the coarse ones those that move record `r` farthest from its coarse dot with token 0: ones
    /// where x is on the side of `up`.
    fn push(&mut self, coarse: Level, r: usize, up: bool) {
        for i in 0..self.records.width {
            let ones = (self.x[i] > 0.0) == up;
            if coarse == Level::L4 {
                self.put(Plane::Mid, r, i, if ones { 15 } else { 0 });
            }
            if self.fine() == Level::L16 {
                self.put(Plane::Low, r, i, if ones { 255 } else { 0 });
            }
        }
    }

    fn put(&mut self, plane: Plane, r: usize, i: usize, bits: u8) {
        let (coding, width) = (self.records.coding, self.records.width);
        let record = &mut self.records.planes[plane as usize][r * coding.plane_bytes(plane, width)..];
        let (block, i) = (i / 64, i % 64);
        if plane == Plane::Low {
            record[block * 64 + i] = bits;
            return;
        }
        let (byte, shift) = (&mut record[block * 32 + i % 32], i / 32 * 4);
        *byte = *byte & !(15 << shift) | bits << shift;
    }
}

/// Scales from the least to the greatest, alike or wild within a record.
fn scale(kind: u8, noise: &mut Noise) -> f16 {
    match kind {
        0 => f16::from_f32(noise.unit().abs() * 0.1),
        1 => f16::from_bits(noise.next() as u16 % 4),
        2 => f16::from_f32(65504.0 * noise.unit().abs()),
        _ => f16::from_bits(noise.next() as u16 % 0x7c00),
    }
}

/// Tokens from tiny to huge, with cancelling halves, zeros and single spikes.
fn number(kind: u8, noise: &mut Noise) -> f32 {
    let unit = noise.unit();
    match kind {
        0 => unit,
        1 => unit * 1e-38,
        2 => unit * 1e20,
        3 => unit.signum() * (1.0 + unit.abs() * 1e-6),
        4 => f32::from(u8::from(noise.next().is_multiple_of(16))) * unit,
        _ => unit * 10f32.powi(noise.next() as i32 % 30 - 15),
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let fine = prop_oneof![1 => Just(Level::L8), 2 => Just(Level::L16)];
    let sizes = (prop_oneof![1usize..70, 1usize..600], 1usize..20, 1usize..4);
    (codings(), fine, sizes, 0u8..4, 0u8..6, arithmetics(), any::<u64>()).prop_map(
        |(coding, fine, (width, count, columns), scales, numbers, arithmetic, seed)| {
            let mut noise = Noise(seed);
            let records = Records::new(coding, fine, width, count, (0, 0));
            let mut records = records.random(&mut noise, |noise| scale(scales, noise));
            if coding.form == Form::Affine {
                // The lower end is a number of either sign.
                let mut sizes = noise.clone();
                (0..count).for_each(|r| {
                    records.set_scales(r, |i| {
                        let size = scale(scales, &mut sizes);
                        if i % 2 == 0 && sizes.unit() < 0.0 { -size } else { size }
                    });
                });
            }
            let x = (0..columns * width).map(|_| number(numbers, &mut noise)).collect();
            Case { records, x, arithmetic }
        },
    )
}

/// The least bias that lifts a dot above 0, as the sum of f32 says, or one that comes near.
fn just_above(dot: f32) -> f32 {
    [-dot, (-dot).next_up()].into_iter().find(|bias| dot + bias > 0.0).unwrap_or((-dot).next_up())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_neuron_is_proven_off_that_its_own_kernel_has_above_0(case in cases(), pushed in any::<bool>(), up in any::<bool>()) {
        for isa in Isa::available() {
            for coarse in case.coarser() {
                let mut case = case.clone();
                if pushed {
                    (0..case.records.count).for_each(|r| case.push(coarse, r, up));
                }
                let dots = case.dots(isa, case.fine());
                for dots in &dots {
                    // Each token once decides the biases.
                    let bias: Vec<f32> = dots.iter().map(|dot| just_above(*dot)).collect();
                    let off = case.off(isa, coarse, &bias);
                    for (n, dots) in case.dots(isa, case.fine()).iter().enumerate() {
                        for r in 0..case.records.count {
                            let gate = dots[r] + bias[r];
                            prop_assert!(gate <= 0.0 || off[r] >> n & 1 == 0, "{isa:?} {coarse:?} record {r} token {n}: {gate}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sets_of_instructions_and_neighbours_prove_the_same(case in cases()) {
        let bias: Vec<f32> = case.dots(Isa::PORTABLE, case.fine())[0].iter().map(|dot| -dot - dot.abs()).collect();
        for coarse in case.coarser() {
            let want = case.off(Isa::PORTABLE, coarse, &bias);
            for isa in Isa::available() {
                prop_assert_eq!(&case.off(isa, coarse, &bias), &want);
            }
            for (n, x) in case.x.chunks_exact(case.records.width).enumerate() {
                let alone = Case { x: x.to_vec(), ..case.clone() }.off(Isa::PORTABLE, coarse, &bias);
                prop_assert_eq!(alone, want.iter().map(|off| off >> n & 1).collect::<Vec<_>>());
            }
        }
    }
}

/// Random weights and one token, `width` wide, with biases that leave one neuron in ten on; also their dots.
fn layer(width: usize, coding: Coding) -> (Case, Vec<f32>) {
    const NEURONS: usize = 2000;
    let mut noise = Noise(1);
    let mut bell = move || (0..6).map(|_| noise.unit()).sum::<f32>() * 0.5f32.sqrt();
    let weights: Vec<f32> = (0..NEURONS * width).map(|_| bell() * 0.02).collect();
    let x: Vec<f32> = (0..width).map(|_| bell()).collect();
    let records = Records::encoded(coding, Level::L16, width, &weights);
    let case = Case { records, x, arithmetic: Arithmetic::Integer };
    let mut sorted = case.dots(Isa::detect(), Level::L16).remove(0);
    sorted.sort_by(f32::total_cmp);
    (case, vec![-sorted[NEURONS * 9 / 10]; NEURONS])
}

fn share(off: &[u32]) -> f64 {
    off.iter().filter(|off| **off != 0).count() as f64 / off.len() as f64
}

/// What issue 6 asks for: three quarters from 8 bits at d = 4096, almost nothing from 4.
#[test]
fn random_layers_are_certified_in_part() {
    for form in [Form::Symmetric, Form::Affine] {
        let coding = Coding { form, group: 64, cells: [1; 3] };
        let shares: Vec<[f64; 2]> = [256, 4096]
            .map(|width| {
                let (case, bias) = layer(width, coding);
                [Level::L4, Level::L8].map(|coarse| share(&case.off(Isa::detect(), coarse, &bias)))
            })
            .to_vec();
        let said = format!("CERTIFIED off, of 0.9 that are ({form:?}; d = 256, 4096; from 4, 8 bits): {shares:.3?}\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        let [[_, small], [none, large]] = shares[..] else { unreachable!() };
        assert!((0.8..0.9).contains(&small) && (0.5..0.85).contains(&large) && none < 0.02, "{shares:?}");
    }
}

#[test]
fn intervals_are_no_wider_than_cells_and_roundings_make_them() {
    // All weights of a group differ from their coarse values by the most there is, all in the same direction.
    for (coarse, arithmetic, fine) in [
        (Level::L4, Arithmetic::Integer, Level::L8),
        (Level::L4, Arithmetic::Float, Level::L8),
        (Level::L8, Arithmetic::Integer, Level::L16),
    ] {
        let coding = Coding { form: Form::Symmetric, group: 64, cells: [1; 3] };
        let records = Records::new(coding, fine, 640, 1, (0, 0));
        let mut noise = Noise(3);
        let records = records.random(&mut noise, |_| f16::ONE);
        let x = (0..640).map(|_| noise.unit()).collect();
        let mut case = Case { records, x, arithmetic };
        case.push(coarse, 0, true);
        let dot = case.dots(Isa::detect(), fine)[0][0];
        let slack: f32 = case.x.iter().map(|x| x.abs()).sum::<f32>() * 1e-4;
        assert_eq!(case.off(Isa::detect(), coarse, &[-dot - slack]), [1], "{coarse:?} {arithmetic:?}");
        assert_eq!(case.off(Isa::detect(), coarse, &[-dot + slack]), [0], "{coarse:?} {arithmetic:?}");
    }
}

/// A record of zeros but for its scale, with one token of the numbers given.
fn flat(x: Vec<f32>, scale: f16) -> Case {
    let coding = Coding { form: Form::Symmetric, group: 64, cells: [1; 3] };
    let mut records = Records::new(coding, Level::L16, x.len(), 1, (0, 0));
    records.set_scales(0, |_| scale);
    Case { records, x, arithmetic: Arithmetic::Float }
}

#[test]
fn what_is_not_finite_is_kept() {
    let isa = Isa::detect();
    // All codes are 0, so weights are near -1: dots are far below 0.
    let off = |x: f32, scale: f16, bias: f32| flat(vec![x; 8], scale).off(isa, Level::L8, &[bias]);
    assert_eq!(off(1.0, f16::ONE, 0.0), [1]);
    assert_eq!(off(1.0, f16::ZERO, -0.0), [1], "exactly 0 is off");
    for x in [f32::NAN, f32::INFINITY, f32::MAX] {
        assert_eq!(off(x, f16::ONE, 0.0), [0], "{x}");
    }
    for scale in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
        assert_eq!(off(1.0, scale, 0.0), [0], "{scale}");
    }
    for bias in [f32::NAN, f32::NEG_INFINITY, f32::MIN] {
        assert_eq!(off(1.0, f16::ONE, bias), [0], "{bias}");
    }
}

#[test]
fn a_bias_of_up_that_could_overflow_keeps_its_neuron() {
    let case = flat(vec![1.0; 8], f16::ONE);
    let cpu = on_two(Isa::detect(), Arithmetic::Float);
    let prover = Prover::new(&cpu, &case.records.coding, Level::L16, &case.x, 8);
    let off =
        |other: f32| prover.off(&cpu, &Activated { rows: case.at(Level::L4), bias: None, others: Some(&[other]) });
    assert_eq!([off(3.0), off(f32::NAN), off(f32::INFINITY), off(f32::MAX)], [[1], [0], [0], [0]]);
}

/// A token whose sums round up at the fine level with every term, and down at the coarse one: each lane begins with
/// `large`, and what follows is just above half a unit of its last place there and just below it here.
fn against_us(arithmetic: Arithmetic, fine: Level, each: usize, large: f32, small: f32) -> Case {
    let coding = Coding { form: Form::Symmetric, group: 64, cells: [1; 3] };
    let width = 16 * each * 64;
    let mut records = Records::new(coding, fine, width, 1, (0, 0));
    records.planes.iter_mut().for_each(|plane| plane.fill(255));
    records.set_scales(0, |_| f16::ONE);
    let x = (0..width).map(|i| if i < 16 * each { large } else { small }).collect();
    Case { records, x, arithmetic }
}

#[test]
fn roundings_that_all_go_one_way_are_within_the_interval() {
    let half_unit = 1.0 / (1 << 24) as f32;
    // In f32 a term is a value times x; in integers a cell times the codes of 64 equal x, then the origin.
    let float = against_us(Arithmetic::Float, Level::L16, 1, 1.01, half_unit * (1.0 + 0.5 / 256.0));
    let integer = against_us(Arithmetic::Integer, Level::L8, 64, 1.1 / 64.0, half_unit * 0.52 / 64.0);
    for (case, coarse) in [(float, Level::L8), (integer, Level::L4)] {
        let [fine_dot, coarse_dot] = [case.fine(), coarse].map(|level| case.dots(Isa::detect(), level)[0][0]);
        let cell = |level: Level| 1.0 / f64::from(1u32 << level.bits());
        let apart = (cell(coarse) - cell(case.fine())) * case.x.iter().map(|x| f64::from(*x)).sum::<f64>();
        let excess = f64::from(fine_dot) - f64::from(coarse_dot) - apart;
        // 63 units of each of 16 lanes.
        assert!(excess > 0.9 * 63.0 * 16.0 * 2.0 * f64::from(half_unit), "cells alone prove too much: {excess}");
        assert_eq!(case.off(Isa::detect(), coarse, &[just_above(fine_dot)]), [0]);
    }
}
