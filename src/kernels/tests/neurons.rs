//! Neurons against the arithmetic that docs/format.md documents (6), put together number by number.

use super::exact::defined;
use super::records::{Noise, Records, bits, codings, levels};
use crate::config::{Activation, Coding, Form};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::cpu::testing::{arithmetics, on};
use crate::kernels::lanes::{LANES, dot, fold16};
use crate::kernels::neurons::{Bias, Linear, Neurons, values};
use crate::kernels::portable;
use crate::kernels::project::Inputs;
use crate::kernels::{Arithmetic, Isa};
use crate::quant::{self, Rows, cells, codes_u8};
use crate::types::{BLOCK, Level};
use half::f16;
use proptest::prelude::*;

/// An FFN's neurons and its inputs.
#[derive(Clone, Debug)]
struct Case {
    arithmetic: Arithmetic,
    activation: Activation,
    gate: Option<Records>,
    up: Records,
    down: Records,
    /// Of gate and up.
    biases: [Option<Vec<f32>>; 2],
    /// `[N][width]`.
    x: Vec<f32>,
}

impl Case {
    fn width(&self) -> usize {
        self.up.width
    }

    fn neurons(&self) -> Neurons<'_> {
        let [gate, up] = self.biases.each_ref().map(|bias| bias.as_deref().map(Bias::of));
        Neurons {
            gate: self.gate.as_ref().map(|records| Linear { rows: records.rows(), bias: gate }),
            up: Linear { rows: self.up.rows(), bias: up },
        }
    }

    /// `[N][width]`, on top of a sum that holds something.
    fn added(&self, isa: Isa, threads: usize) -> Vec<u32> {
        let cpu = on(threads, isa, self.arithmetic);
        let inputs = Inputs::new(&cpu, &self.x, self.width(), &[self.up.level]);
        let mut sum = ChunkSum::of_rows(&self.x, self.width());
        let h = values(&cpu, &inputs, self.activation, &self.neurons());
        sum.add(&cpu, &self.down.rows(), &h, threads);
        bits(sum.rows())
    }

    /// The definition.
    fn defined(&self) -> Vec<u32> {
        bits(self.x.chunks_exact(self.width()).flat_map(|x| self.defined_row(x)))
    }

    fn defined_row(&self, x: &[f32]) -> Vec<f32> {
        let (gate, up, down) = (&self.gate, &self.up, self.down.rows());
        let dots = |records: &Records, bias: &Option<Vec<f32>>| -> Vec<f32> {
            let dot = |r| defined_dot(self.arithmetic, &records.rows(), r, x);
            (0..records.count).map(|r| bias.as_ref().map_or(dot(r), |bias| dot(r) + bias[r])).collect()
        };
        let ups = dots(up, &self.biases[1]);
        let mut h = gate.as_ref().map_or(ups.clone(), |gate| dots(gate, &self.biases[0]));
        portable::activate(self.activation, &mut h);
        if gate.is_some() {
            h.iter_mut().zip(ups).for_each(|(h, up)| *h *= up);
        }
        x.iter().enumerate().map(|(i, start)| defined_sum(self.arithmetic, &down, &h, i, *start)).collect()
    }
}

/// A dot as docs/format.md writes it.
pub fn defined_dot(arithmetic: Arithmetic, rows: &Rows, r: usize, x: &[f32]) -> f32 {
    let (blocks, record) = (rows.blocks(), rows.record(r));
    let mut x = x.to_vec();
    x.resize(blocks * BLOCK, 0.0);
    if !arithmetic.is_integer(rows.level) {
        let mut weights = vec![0.0; blocks * BLOCK];
        weights
            .chunks_exact_mut(BLOCK)
            .enumerate()
            .for_each(|(b, w)| quant::values(&rows.coding, rows.level, &record, b, w));
        // What lies behind the width is no weight.
        weights[rows.width..].fill(0.0);
        return dot(&weights, &x);
    }
    let mut lanes = [0.0f32; LANES];
    for (g, first) in (0..rows.width).step_by(rows.coding.group).enumerate() {
        let block = &x[first / BLOCK * BLOCK..][..BLOCK];
        let most = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let q = |i: usize| if most < 1e-30 { 0.0 } else { (x[i] * (127.0 / most)).round_ties_even() };
        let scale = if most < 1e-30 { 0.0 } else { most / 127.0 };
        let (mut coded, mut plain) = (0i64, 0i64);
        for i in first..first + rows.coding.group {
            let code = codes_u8(rows.level, &record, i / BLOCK)[i % BLOCK / 32][i % 32];
            coded += i64::from(code) * q(i) as i64;
            plain += q(i) as i64;
        }
        let cells = cells(&rows.coding, rows.level, record.scales, g);
        let lane = &mut lanes[g % LANES];
        *lane = cells.width.mul_add(coded as f32 * scale, *lane);
        *lane = cells.origin.mul_add(plain as f32 * scale, *lane);
    }
    fold16(lanes)
}

/// One element of a sum that begins at `start`.
pub fn defined_sum(arithmetic: Arithmetic, rows: &Rows, h: &[f32], i: usize, start: f32) -> f32 {
    if arithmetic.is_integer(rows.level) {
        return start + defined(rows, h, i);
    }
    let weight = |r| {
        let mut block = [0.0; BLOCK];
        quant::values(&rows.coding, rows.level, &rows.record(r), i / BLOCK, &mut block);
        block[i % BLOCK]
    };
    h.iter().enumerate().fold(start, |sum, (r, h)| sum + h * weight(r))
}

fn cases() -> impl Strategy<Value = Case> {
    let activation =
        prop::sample::select(vec![Activation::Silu, Activation::Relu, Activation::Relu2, Activation::GeluTanh]);
    let sizes =
        (1usize..300, prop_oneof![4 => 1usize..60, 1 => Just(256usize)], prop_oneof![3 => 1usize..4, 1 => 4usize..34]);
    let switches = (any::<bool>(), any::<[bool; 2]>());
    (arithmetics(), activation, codings(), (levels(), levels()), sizes, switches, any::<u64>()).prop_map(
        |(arithmetic, activation, coding, (level, down), (width, count, columns), (gated, biased), seed)| {
            let mut noise = Noise(seed);
            // Weights around a twentieth.
            let scale = |noise: &mut Noise| f16::from_f32(0.1 * noise.factor(30));
            let mut records = |level| Records::new(coding, level, width, count, (0, 64)).random(&mut noise, scale);
            let (gate, up, down) = (gated.then(|| records(level)), records(level), records(down));
            let mut numbers = |n: usize| (0..n).map(|_| noise.factor(20)).collect::<Vec<_>>();
            let biases = biased.map(|biased| biased.then(|| numbers(count)));
            Case { arithmetic, activation, gate, up, down, biases, x: numbers(columns * width) }
        },
    )
}

proptest! {
    #[test]
    fn neurons_add_what_is_documented(case in cases(), threads in 1usize..4) {
        let want = case.defined();
        for isa in Isa::available() {
            prop_assert!(case.added(isa, threads) == want, "{}", isa.name());
        }
    }
}

#[test]
#[should_panic(expected = "inputs that were not prepared for the level of the rows")]
fn inputs_must_be_prepared_for_the_records() {
    let coding = Coding { form: Form::Affine, group: 64, cells: [1; 3] };
    let records = Records::new(coding, Level::L4, 64, 2, (0, 0));
    let cpu = on(1, Isa::PORTABLE, Arithmetic::Integer);
    let inputs = Inputs::new(&cpu, &[1.0; 64], 64, &[Level::L16]);
    let linear = Linear { rows: records.rows(), bias: None };
    values(&cpu, &inputs, Activation::Relu, &Neurons { gate: None, up: linear });
}
