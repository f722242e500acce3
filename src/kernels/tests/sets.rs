//! Every path of every instruction set against the portable bodies: the same bits over random bytes, shapes, strides and
//! values that only damage produces.

use super::records::{Noise, Records, bits, codings, levels, panel_bits};
use crate::config::{Coding, Form};
use crate::kernels::accumulate::{Accumulator, ChunkSum};
use crate::kernels::columns::{STRIP, Strip};
use crate::kernels::cpu::testing::{arithmetics, on, on_two};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project, project_all};
use crate::kernels::testing::skipped;
use crate::kernels::{Arithmetic, Cpu, Isa, dispatch};
use crate::quant::Rows;
use crate::types::{BLOCK, Level};
use half::f16;
use proptest::prelude::*;
use std::sync::LazyLock;

/// Sets of x86-64 that this machine may lack: said once, past the capture of test output, since nothing is tested for
/// them.
static SETS: LazyLock<Vec<Isa>> = LazyLock::new(|| {
    let sets = Isa::available();
    for name in ["avx2", "avx512", "avx512vnni", "amx"] {
        if sets.iter().all(|isa| isa.name() != name) {
            skipped(&format!("kernels for {name}, which this machine lacks"));
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
    columns: usize,
    /// Bytes before a record's part and behind it, as where sections hold several matrices.
    around: (usize, usize),
    seed: u64,
    /// Whether scales and activations have values that are not finite.
    damaged: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let width = prop_oneof![2 => 1usize..200, 2 => 900usize..1200, 1 => 1usize..2600];
    let records = prop_oneof![4 => 0usize..22, 1 => 22usize..70, 1 => Just(256usize)];
    let columns = prop_oneof![3 => 1usize..4, 1 => 1usize..34];
    let around = (prop_oneof![Just(0usize), 1usize..200], prop_oneof![Just(0usize), 1usize..200]);
    (codings(), levels(), width, records, columns, around, any::<u64>(), prop::bool::weighted(0.2)).prop_map(
        |(coding, level, width, records, columns, around, seed, damaged)| Case {
            coding,
            level,
            width,
            records,
            columns,
            around,
            seed,
            damaged,
        },
    )
}

impl Noise {
    /// Activations: some groups zero or tiny, and in damaged cases some values not finite.
    fn activation(&mut self, index: usize, damaged: bool) -> f32 {
        let value = self.unit();
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
    fn records(&self) -> Records {
        let Case { coding, level, width, records, around, damaged, .. } = *self;
        let random = |noise: &mut Noise| noise.scale(damaged);
        Records::new(coding, level, width, records, around).random(&mut Noise(self.seed), random)
    }

    fn numbers(&self, many: usize) -> Vec<f32> {
        let mut noise = Noise(self.seed ^ 1);
        (0..many).map(|i| noise.activation(i, self.damaged)).collect()
    }

    fn dots(&self, cpu: &Cpu, rows: &Rows) -> Vec<u32> {
        let inputs = Inputs::new(cpu, &self.numbers(self.columns * self.width), self.width, &[self.level]);
        let mut out = Panel::new(self.records, self.columns);
        project(cpu, rows, &inputs, &mut out);
        panel_bits(&out)
    }

    /// Two chunks, so that sums that begin at something are met as well.
    fn sums(&self, cpu: &Cpu, rows: &Rows) -> Vec<u32> {
        let factors = self.numbers(self.records.max(1) * self.columns);
        let factors = Panel::of_rows(&factors, self.records.max(1), 0..self.records);
        let start = self.numbers(self.width);
        let mut sum = Accumulator::new(self.columns, self.width, Some(&start));
        let mut chunk = ChunkSum::new(self.columns, self.width);
        chunk.add(cpu, rows, &factors, 1);
        chunk.add(cpu, rows, &factors, 4);
        cpu.run(|| sum.fold(&[chunk.clone(), chunk]));
        bits(sum.finish())
    }
}

/// More matrices of the same width: their levels, and records that fill no task, one or several.
fn others() -> impl Strategy<Value = Vec<(Level, usize)>> {
    prop::collection::vec((levels(), prop_oneof![0usize..3, 3usize..80]), 0..4)
}

proptest! {
    #[test]
    fn dots_are_the_portable_ones(case in cases(), arithmetic in arithmetics()) {
        let records = case.records();
        let rows = records.rows();
        let want = case.dots(&on_two(Isa::PORTABLE, arithmetic), &rows);
        for isa in SETS.iter() {
            prop_assert_eq!(&case.dots(&on_two(*isa, arithmetic), &rows), &want, "{}", isa.name());
        }
    }

    #[test]
    fn dots_of_several_matrices_are_those_of_each(
        case in cases(), others in others(), arithmetic in arithmetics(), threads in 1usize..5,
    ) {
        let others = others.iter().zip(case.seed..).map(|((level, records), seed)| Case {
            level: *level, records: *records, seed, ..case.clone()
        });
        let cases: Vec<Case> = others.chain([case.clone()]).collect();
        let levels: Vec<Level> = cases.iter().map(|case| case.level).collect();
        let records: Vec<_> = cases.iter().map(Case::records).collect();
        let rows: Vec<Rows> = records.iter().map(Records::rows).collect();
        let x = case.numbers(case.columns * case.width);
        let panels = || rows.iter().map(|rows| Panel::new(rows.records, case.columns)).collect::<Vec<_>>();
        // Records of both arithmetics may meet in a call, but not in one job.
        let kin = |[a, b]: &[Rows; 2]| arithmetic.is_integer(a.level) == arithmetic.is_integer(b.level);
        let kin: Vec<bool> = rows.as_chunks().0.iter().map(kin).collect();
        let together = |isa: Isa| {
            let (cpu, mut one, mut two) = (on(threads, isa, arithmetic), panels(), panels());
            let inputs = Inputs::new(&cpu, &x, case.width, &levels);
            project_all(&cpu, &inputs, rows.iter().zip(&mut one).map(|job| [job]));
            let pairs = rows.as_chunks().0.iter().zip(two.as_chunks_mut().0).zip(&kin).filter(|(_, kin)| **kin);
            project_all(&cpu, &inputs, pairs.map(|(([a, b], [c, d]), _)| [(a, c), (b, d)]));
            (one, two)
        };
        let alone: Vec<Vec<u32>> = cases.iter().zip(&rows).map(|(of, rows)| {
            let (cpu, mut panel) = (on_two(Isa::PORTABLE, arithmetic), Panel::new(of.records, case.columns));
            project(&cpu, rows, &Inputs::new(&cpu, &x, case.width, &[of.level]), &mut panel);
            panel_bits(&panel)
        }).collect();
        for isa in SETS.iter() {
            let (one, two) = together(*isa);
            let paired = two.iter().enumerate().filter(|(i, _)| kin.get(i / 2) == Some(&true));
            for (i, have) in one.iter().enumerate().chain(paired) {
                prop_assert_eq!(&panel_bits(have), &alone[i], "{}", isa.name());
            }
        }
    }

    #[test]
    fn accumulations_are_the_portable_ones(case in cases(), arithmetic in arithmetics()) {
        let records = case.records();
        let rows = records.rows();
        let want = case.sums(&on_two(Isa::PORTABLE, arithmetic), &rows);
        for isa in SETS.iter() {
            prop_assert_eq!(&case.sums(&on_two(*isa, arithmetic), &rows), &want, "{}", isa.name());
        }
    }

    #[test]
    fn activations_are_quantised_alike(case in cases()) {
        let x = case.numbers(case.width);
        let quantised = |isa: Isa| {
            let mut strips = vec![Strip::EMPTY; case.width.div_ceil(STRIP * BLOCK)];
            dispatch::quantise(isa, &x, &mut strips);
            let numbers = bits(strips.iter().flat_map(|x| [x.scales, x.sums]).flatten());
            (strips.into_iter().map(|x| x.codes).collect::<Vec<_>>(), numbers)
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
        let mut all = Records::new(coding, level, width, records, (0, 0));
        all.planes.iter_mut().for_each(|plane| plane.fill(0xff));
        (0..records).for_each(|r| all.set_scales(r, |_| f16::ONE));
        let rows = all.rows();
        let x: Vec<f32> = (0..count * width).map(|i| if i % 64 < 60 { -1.0 } else { 1.0 }).collect();
        let dots = |isa: Isa| {
            let (cpu, mut out) = (on_two(isa, Arithmetic::Integer), Panel::new(records, count));
            project(&cpu, &rows, &Inputs::new(&cpu, &x, width, &[level]), &mut out);
            out
        };
        let sums = |isa: Isa| {
            let mut sum = ChunkSum::new(count, width);
            let factors = Panel::of_rows(&vec![-1.0; records * count], records, 0..records);
            sum.add(&on_two(isa, Arithmetic::Integer), &rows, &factors, 2);
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
