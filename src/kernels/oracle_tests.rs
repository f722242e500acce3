//! Every path of every instruction set against the portable bodies: the same bits over random bytes, shapes, strides and
//! values that only damage produces.
#![allow(clippy::unwrap_used)]

use super::Isa;
use super::accumulate::{Accumulator, ChunkSum};
use super::columns::{STRIP, Strip};
use super::dispatch;
use super::panel::Panel;
use super::project::{Inputs, project, project_all};
use crate::config::{Coding, Form};
use crate::quant::{Column, Rows};
use crate::types::{BLOCK, Level, Plane};
use half::f16;
use proptest::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::LazyLock;

static POOL: LazyLock<ThreadPool> = LazyLock::new(|| ThreadPoolBuilder::new().num_threads(2).build().unwrap());

/// Sets of x86-64 that this machine may lack: said once in the output of the tests, since nothing is tested for them.
static SETS: LazyLock<Vec<Isa>> = LazyLock::new(|| {
    let sets = Isa::available();
    for name in ["avx2", "avx512", "avx512vnni"] {
        if sets.iter().all(|isa| isa.name() != name) {
            eprintln!("SKIPPED: kernels for {name}, which this machine lacks");
        }
    }
    sets
});

/// Records as bytes, activations, and everything that decides what a kernel computes.
#[derive(Clone, Debug)]
struct Case {
    coding: Coding,
    level: Level,
    width: usize,
    records: usize,
    count: usize,
    /// Bytes before a record's part and behind it, as where sections hold several matrices.
    around: (usize, usize),
    seed: u64,
    /// Whether scales and activations have values that are not finite.
    damaged: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let coding = (any::<bool>(), prop_oneof![4 => Just(64usize), 1 => Just(32)], [0u8..2, 0u8..2, 0u8..2]);
    let coding = coding.prop_map(|(affine, group, cells)| {
        let form = if affine { Form::Affine } else { Form::Symmetric };
        Coding { form, group, cells }
    });
    let level = prop_oneof![Just(Level::L4), Just(Level::L8), Just(Level::L16)];
    let width = prop_oneof![2 => 1usize..200, 2 => 900usize..1200, 1 => 1usize..2600];
    let records = prop_oneof![4 => 0usize..22, 1 => 22usize..70, 1 => Just(256usize)];
    let count = prop_oneof![3 => 1usize..4, 1 => 1usize..34];
    let around = (prop_oneof![Just(0usize), 1usize..200], prop_oneof![Just(0usize), 1usize..200]);
    (coding, level, width, records, count, around, any::<u64>(), prop::bool::weighted(0.2)).prop_map(
        |(coding, level, width, records, count, around, seed, damaged)| Case {
            coding,
            level,
            width,
            records,
            count,
            around,
            seed,
            damaged,
        },
    )
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// Activations: some groups zero or tiny, and in damaged cases some values not finite.
    fn activation(&mut self, index: usize, damaged: bool) -> f32 {
        let value = self.next() as f32 / (1u64 << 30) as f32 - 1.0;
        match (index / 64 % 7, self.next() % 200) {
            (3, _) => 0.0,
            (5, _) => value * 1e-31,
            (_, 0) if damaged => [f32::NAN, f32::INFINITY, -f32::INFINITY][self.next() as usize % 3],
            (_, 1..40) => value * 50.0,
            _ => value,
        }
    }

    /// Scales: zero, subnormal, of any size, and in damaged cases not finite.
    fn scale(&mut self, damaged: bool) -> f16 {
        match self.next() % 20 {
            0 => f16::ZERO,
            1 => f16::from_bits(1),
            2 => f16::from_f32(-0.0),
            3 if damaged => f16::INFINITY,
            4 if damaged => f16::NAN,
            5 => f16::from_bits(self.next() as u16 & 0x7bff),
            _ => f16::from_f32(self.next() as f32 / (1u64 << 36) as f32),
        }
    }
}

impl Case {
    /// The planes that the level reads, with random codes.
    fn planes(&self) -> Vec<Vec<u8>> {
        let mut noise = Noise(self.seed);
        self.level.planes().iter().map(|plane| self.plane(*plane, &mut noise)).collect()
    }

    fn plane(&self, plane: Plane, noise: &mut Noise) -> Vec<u8> {
        let stride = self.stride(plane);
        let mut bytes: Vec<u8> = (0..self.records * stride).map(|_| noise.next() as u8).collect();
        if plane == Plane::Base {
            let scales = self.coding.scale_bytes(self.width);
            for record in bytes.chunks_exact_mut(stride) {
                let end = stride - self.around.1;
                for scale in record[end - scales..end].as_chunks_mut().0 {
                    *scale = noise.scale(self.damaged).to_le_bytes();
                }
            }
        }
        bytes
    }

    fn stride(&self, plane: Plane) -> usize {
        self.around.0 + self.coding.plane_bytes(plane, self.width) + self.around.1
    }

    fn rows<'a>(&self, planes: &'a [Vec<u8>]) -> Rows<'a> {
        let column = |(plane, bytes): (&Plane, &'a Vec<u8>)| Column {
            bytes: bytes.as_slice(),
            stride: self.stride(*plane),
            offset: self.around.0,
        };
        let columns = self.level.planes().iter().zip(planes).map(column).collect();
        Rows { coding: self.coding, level: self.level, width: self.width, count: self.records, columns }
    }

    fn numbers(&self, many: usize) -> Vec<f32> {
        let mut noise = Noise(self.seed ^ 1);
        (0..many).map(|i| noise.activation(i, self.damaged)).collect()
    }

    fn dots(&self, isa: Isa, rows: &Rows, int8: bool) -> Vec<u32> {
        let int8 = int8 && self.level != Level::L16;
        let inputs = POOL.install(|| Inputs::new(isa, &self.numbers(self.count * self.width), self.width, int8));
        let mut out = Panel::new(self.records, self.count);
        POOL.install(|| project(isa, rows, &inputs, &mut out));
        by_column(&out)
    }

    /// Two chunks, so that sums that begin at something are met as well.
    fn sums(&self, isa: Isa, rows: &Rows, int8: bool) -> Vec<u32> {
        let factors = self.numbers(self.records.max(1) * self.count);
        let factors = Panel::of_rows(&factors, self.records.max(1), 0..self.records);
        let start = self.numbers(self.width);
        let mut sum = Accumulator::new(self.count, self.width, Some(&start));
        let mut chunk = ChunkSum::new(self.count, self.width);
        POOL.install(|| {
            chunk.add(isa, int8, rows, &factors, 1);
            chunk.add(isa, int8, rows, &factors, 4);
            sum.fold(&[chunk.clone(), chunk]);
        });
        bits(sum.finish())
    }
}

/// More matrices of the same width: their levels, and records that fill no task, one or several.
fn others() -> impl Strategy<Value = Vec<(Level, usize)>> {
    let level = prop_oneof![Just(Level::L4), Just(Level::L8), Just(Level::L16)];
    prop::collection::vec((level, prop_oneof![0usize..3, 3usize..80]), 0..4)
}

/// The bits of a panel, `[N][records]`.
fn by_column(panel: &Panel) -> Vec<u32> {
    bits((0..panel.count()).flat_map(|n| panel.column(n)).collect())
}

/// Bits, with one for all that are not a number: which of those comes out of a sum of two is the compiler's choice.
fn bits(values: Vec<f32>) -> Vec<u32> {
    values.into_iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

proptest! {
    #[test]
    fn dots_are_the_portable_ones(case in cases(), int8 in any::<bool>()) {
        let planes = case.planes();
        let rows = case.rows(&planes);
        let want = case.dots(Isa::PORTABLE, &rows, int8);
        for isa in SETS.iter() {
            prop_assert_eq!(&case.dots(*isa, &rows, int8), &want, "{}", isa.name());
        }
    }

    #[test]
    fn dots_of_several_matrices_are_those_of_each(
        case in cases(), others in others(), int8 in any::<bool>(), threads in 1usize..5,
    ) {
        let others = others.iter().zip(case.seed..).map(|((level, records), seed)| Case {
            level: *level, records: *records, seed, ..case.clone()
        });
        let cases: Vec<Case> = others.chain([case.clone()]).collect();
        let int8 = int8 && cases.iter().all(|case| case.level != Level::L16);
        let planes: Vec<_> = cases.iter().map(Case::planes).collect();
        let rows: Vec<Rows> = cases.iter().zip(&planes).map(|(case, planes)| case.rows(planes)).collect();
        let x = case.numbers(case.count * case.width);
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let panels = || rows.iter().map(|rows| Panel::new(rows.count, case.count)).collect::<Vec<_>>();
        let together = |isa: Isa| {
            let (mut one, mut two) = (panels(), panels());
            pool.install(|| {
                let inputs = Inputs::new(isa, &x, case.width, int8);
                project_all(isa, &inputs, rows.iter().zip(&mut one).map(|job| [job]));
                let pairs = rows.as_chunks().0.iter().zip(two.as_chunks_mut().0);
                project_all(isa, &inputs, pairs.map(|([a, b], [c, d])| [(a, c), (b, d)]));
            });
            two.truncate(rows.len() / 2 * 2);
            (one, two)
        };
        let alone: Vec<Vec<u32>> = cases.iter().zip(&rows).map(|(of, rows)| {
            let mut panel = Panel::new(of.records, case.count);
            let inputs = POOL.install(|| Inputs::new(Isa::PORTABLE, &x, case.width, int8));
            POOL.install(|| project(Isa::PORTABLE, rows, &inputs, &mut panel));
            by_column(&panel)
        }).collect();
        for isa in SETS.iter() {
            let (one, two) = together(*isa);
            for (have, want) in one.iter().zip(&alone).chain(two.iter().zip(&alone)) {
                prop_assert_eq!(&by_column(have), want, "{}", isa.name());
            }
        }
    }

    #[test]
    fn accumulations_are_the_portable_ones(case in cases(), int8 in any::<bool>()) {
        let planes = case.planes();
        let rows = case.rows(&planes);
        let want = case.sums(Isa::PORTABLE, &rows, int8);
        for isa in SETS.iter() {
            prop_assert_eq!(&case.sums(*isa, &rows, int8), &want, "{}", isa.name());
        }
    }

    #[test]
    fn activations_are_quantised_alike(case in cases()) {
        let x = case.numbers(case.width);
        let quantised = |isa: Isa| {
            let mut strips = vec![Strip::EMPTY; case.width.div_ceil(STRIP * BLOCK)];
            dispatch::quantise(isa, &x, &mut strips);
            let numbers = strips.iter().flat_map(|x| [x.scales, x.sums]).flatten().collect();
            (strips.into_iter().map(|x| x.codes).collect::<Vec<_>>(), bits(numbers))
        };
        let want = quantised(Isa::PORTABLE);
        for isa in SETS.iter() {
            prop_assert_eq!(&quantised(*isa), &want, "{}", isa.name());
        }
    }
}

/// The largest codes, activations and factors there are: every product saturates what is too narrow for it.
#[test]
fn the_largest_codes_overflow_nothing() {
    for (form, level, count) in [
        (Form::Affine, Level::L4, 1),
        (Form::Symmetric, Level::L8, 2),
        (Form::Affine, Level::L8, 1),
        (Form::Affine, Level::L8, 9),
    ] {
        let coding = Coding { form, group: 64, cells: [1, 1, 1] };
        let (width, records) = (1100, 256);
        let case = Case { coding, level, width, records, count, around: (0, 0), seed: 0, damaged: false };
        let mut planes: Vec<Vec<u8>> = level.planes().iter().map(|p| vec![0xff; records * case.stride(*p)]).collect();
        let scales = coding.scale_bytes(width);
        let stride = case.stride(Plane::Base);
        for record in planes[0].chunks_exact_mut(stride) {
            record[stride - scales..].as_chunks_mut().0.fill(f16::ONE.to_le_bytes());
        }
        let rows = case.rows(&planes);
        let x: Vec<f32> = (0..count * width).map(|i| if i % 64 < 60 { -1.0 } else { 1.0 }).collect();
        let dots = |isa: Isa| {
            let mut out = Panel::new(records, count);
            POOL.install(|| project(isa, &rows, &Inputs::new(isa, &x, width, true), &mut out));
            out
        };
        let sums = |isa: Isa| {
            let mut sum = ChunkSum::new(count, width);
            let factors = Panel::of_rows(&vec![-1.0; records * count], records, 0..records);
            POOL.install(|| sum.add(isa, true, &rows, &factors, 2));
            sum.rows()
        };
        // Every weight is lo + (code + 1/2) * cell with code 2^bits - 1.
        let largest = if form == Form::Affine { 2.0 } else { 1.0 }
            - 0.5f32.powi(level.bits() as i32 + i32::from(form == Form::Affine));
        for isa in SETS.iter() {
            assert_eq!(dots(*isa), dots(Isa::PORTABLE), "{}", isa.name());
            assert_eq!(sums(*isa), sums(Isa::PORTABLE), "{}", isa.name());
            assert!(sums(*isa).iter().all(|sum| (sum / (-256.0 * largest) - 1.0).abs() < 1e-5), "{}", isa.name());
        }
    }
}
