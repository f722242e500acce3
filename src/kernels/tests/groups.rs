//! Dots at 8 bits that begin with kept dots of groups give the bits of those that do not.

use super::records::{Noise, Records, codings, panel_bits};
use crate::config::{Activation, Coding};
use crate::kernels::cpu::testing::on_two;
use crate::kernels::neurons::{Bias, KeptDots, Linear, Neurons, values, values_kept, values_known};
use crate::kernels::project::Inputs;
use crate::kernels::{Arithmetic, Isa};
use crate::types::Level;
use half::f16;
use proptest::prelude::*;

/// Neurons, some of them, and a column.
#[derive(Clone, Debug)]
struct Case {
    gate: Option<Records>,
    up: Records,
    bias: Vec<f32>,
    places: Vec<u32>,
    x: Vec<f32>,
}

/// One record and several tasks of them, one strip and several, whole and not; codes, scales and activations of every size.
fn cases() -> impl Strategy<Value = Case> {
    let width = prop_oneof![3 => 1usize..200, 2 => 900usize..2200, 1 => 4000usize..4300];
    let count = prop_oneof![1 => Just(1usize), 4 => 1usize..60, 1 => 200usize..300];
    let around = (prop_oneof![Just(0usize), 1usize..100], prop_oneof![Just(0usize), 1usize..100]);
    (codings(), width, count, around, any::<bool>(), 0u64..11, any::<u64>()).prop_map(
        |(coding, width, count, around, gated, tenths, seed)| {
            let (mut noise, coding) = (Noise(seed), Coding { group: 64, ..coding });
            let mut records = |around| {
                let empty = Records::new(coding, Level::L8, width, count, around);
                empty.random(&mut noise, |noise| f16::from_f32(noise.unit()))
            };
            let (gate, up) = (gated.then(|| records(around)), records((around.1, around.0)));
            let places = (0..count as u32).filter(|_| noise.next() % 10 < tenths).collect();
            let mut numbers = |count| (0..count).map(|_| noise.unit() * noise.unit()).collect();
            Case { gate, up, bias: numbers(count), places, x: numbers(width) }
        },
    )
}

impl Case {
    fn neurons(&self, level: Level) -> Neurons<'_> {
        let bias = Some(Bias::of(&self.bias));
        let gate = self.gate.as_ref().map(|gate| Linear { rows: gate.rows(), bias });
        Neurons { gate, up: Linear { rows: self.up.rows(), bias } }.to_level(level)
    }
}

proptest! {
    #[test]
    fn kept_dots_and_the_mid_plane_give_the_bits_of_both_planes(case in cases()) {
        let mut kept = KeptDots::default();
        for isa in Isa::available() {
            let cpu = on_two(isa, Arithmetic::Integer);
            let inputs = Inputs::new(&cpu, &case.x, case.x.len(), &[Level::L4]);
            let coarse = case.neurons(Level::L4);
            let scanned = values_kept(&cpu, &inputs, Activation::Silu, &coarse, &mut kept);
            let plain = values(&cpu, &inputs, Activation::Silu, &coarse);
            prop_assert_eq!(panel_bits(&scanned), panel_bits(&plain), "kept, {}", isa.name());
            let fine = case.neurons(Level::L8).at(&case.places);
            let known = values_known(&cpu, &inputs, Activation::Silu, &fine, &kept, &case.places);
            let plain = values(&cpu, &inputs, Activation::Silu, &fine);
            prop_assert_eq!(panel_bits(&known), panel_bits(&plain), "known, {}", isa.name());
        }
    }
}
