//! Records that a call lists give the bits of the same records copied together.

use super::records::{Noise, Records, bits, codings, levels, panel_bits};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::cpu::testing::{arithmetics, on_two};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project};
use crate::kernels::{Arithmetic, Isa};
use crate::quant::Rows;
use crate::types::CHUNK;
use half::f16;
use proptest::prelude::*;

/// Records, and some of them.
#[derive(Clone, Debug)]
struct Case {
    records: Records,
    chosen: Vec<u32>,
    /// N.
    columns: usize,
    arithmetic: Arithmetic,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let width = prop_oneof![2 => 1usize..200, 1 => 900usize..2200, 1 => 4000usize..4300];
    let around = (prop_oneof![Just(0usize), 1usize..200], prop_oneof![Just(0usize), 1usize..200]);
    let count = prop_oneof![4 => 1usize..60, 1 => 260usize..300];
    let records = (codings(), levels(), width, count, around, any::<u64>());
    let records = records.prop_map(|(coding, level, width, count, around, seed)| {
        let scale = |noise: &mut Noise| f16::from_f32(noise.unit());
        Records::new(coding, level, width, count, around).random(&mut Noise(seed), scale)
    });
    let columns = prop_oneof![2 => Just(1usize), 3 => 2usize..5, 1 => 5usize..34];
    // Of ten records: none, some or all.
    (records, prop_oneof![Just(0u64), 1u64..10, Just(10)], any::<bool>(), columns, arithmetics(), any::<u64>())
        .prop_map(|(records, tenths, alone, columns, arithmetic, seed)| {
            let (mut noise, all) = (Noise(seed), records.count as u32);
            let mut chosen: Vec<u32> = (0..all).filter(|_| noise.next() % 10 < tenths).take(CHUNK).collect();
            if alone {
                chosen = vec![noise.next() as u32 % all];
            }
            Case { records, chosen, columns, arithmetic, seed }
        })
}

impl Case {
    /// Dots `[N][records]`, then sums `[N][width]`.
    fn products(&self, isa: Isa, rows: &Rows) -> (Vec<u32>, Vec<u32>) {
        let mut noise = Noise(self.seed);
        let x: Vec<f32> = (0..self.columns * rows.width).map(|_| noise.unit()).collect();
        let mut factors = Panel::new(rows.records, self.columns);
        factors.values_mut().iter_mut().for_each(|factor| *factor = noise.unit());
        let (mut dots, mut sum) = (Panel::new(rows.records, self.columns), ChunkSum::new(self.columns, rows.width));
        let cpu = on_two(isa, self.arithmetic);
        project(&cpu, rows, &Inputs::new(&cpu, &x, rows.width, &[rows.level]), &mut dots);
        sum.add(&cpu, rows, &factors, 2);
        (panel_bits(&dots), bits(sum.rows()))
    }
}

proptest! {
    /// Each plane holds its records elsewhere, so that no plane can be read at another's places.
    #[test]
    fn listed_records_give_the_bits_of_their_copies(case in cases(), shifts in any::<[u32; 3]>()) {
        let (all, copied) = (case.records.count as u32, case.records.copied(&case.chosen));
        let shifts = shifts.map(|shift| shift % all);
        let mut records = case.records.clone();
        for (plane, shift) in records.planes.iter_mut().zip(shifts) {
            let stride = plane.len() / all as usize;
            plane.rotate_right(stride * shift as usize);
        }
        let places = shifts.map(|shift| case.chosen.iter().map(|r| (r + shift) % all).collect::<Vec<u32>>());
        let listed = records.listed(places.each_ref().map(Vec::as_slice));
        for isa in Isa::available() {
            prop_assert_eq!(case.products(isa, &listed), case.products(isa, &copied.rows()), "{}", isa.name());
        }
    }

    #[test]
    fn parts_of_lists_and_of_runs_are_the_same_records(case in cases(), from in any::<usize>(), to in any::<usize>()) {
        let (to, copied) = (to % (case.chosen.len() + 1), case.records.copied(&case.chosen));
        let from = from % (to + 1);
        let (listed, run) = (case.records.listed([&case.chosen; 3]).slice(from, to), copied.rows().slice(from, to));
        prop_assert_eq!((listed.records, run.records), (to - from, to - from));
        for r in 0..to - from {
            prop_assert_eq!(listed.record(r).codes, run.record(r).codes);
            prop_assert_eq!(listed.record(r).scales, run.record(r).scales);
        }
    }
}
