//! Sums of a chunk by bands against the rule of docs/format.md (6), put together number by number for each column alone;
//! and what must not matter to a column: which records the others use.

use super::neurons::{defined_dot, defined_sum};
use super::records::{Noise, Records, bits, codings};
use crate::config::{Activation, Coding, Form};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::cpu::testing::{arithmetics, on_two};
use crate::kernels::neurons::{Bias, Linear, Neurons, values};
use crate::kernels::project::Inputs;
use crate::kernels::{Arithmetic, Cpu, Isa, portable};
use crate::types::{LEVELS, Level};
use half::f16;
use proptest::prelude::*;

/// Neurons of a chunk, their inputs, and who uses which at what level.
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
    /// `[N][records]`.
    used: Vec<Option<Level>>,
}

/// Places of a level's neurons, and for each the columns that use it.
type Band = (Vec<u32>, Vec<u32>);

impl Case {
    fn count(&self) -> usize {
        self.up.count
    }

    fn columns(&self) -> usize {
        self.used.len() / self.count()
    }

    /// The case of one column.
    fn alone(&self, n: usize) -> Case {
        let (x, used) = (&self.x[n * self.up.width..][..self.up.width], &self.used[n * self.count()..][..self.count()]);
        Case { x: x.to_vec(), used: used.to_vec(), ..self.clone() }
    }

    fn neurons(&self) -> Neurons<'_> {
        let [gate, up] = self.biases.each_ref().map(|bias| bias.as_deref().map(Bias::of));
        Neurons {
            gate: self.gate.as_ref().map(|records| Linear { rows: records.rows(), bias: gate }),
            up: Linear { rows: self.up.rows(), bias: up },
        }
    }

    fn inputs(&self, cpu: &Cpu) -> Inputs {
        Inputs::new(cpu, &self.x, self.up.width, &LEVELS)
    }

    fn band(&self, level: Level) -> Band {
        let users = |j: usize| {
            let of_column = |n: usize| u32::from(self.used[n * self.count() + j] == Some(level)) << n;
            (0..self.columns()).map(of_column).sum::<u32>()
        };
        (0..self.count()).map(|j| (j as u32, users(j))).filter(|(_, users)| *users != 0).unzip()
    }

    /// What the kernels make of the bands, `[N][width]`; 4-bit values are taken of all neurons' where `scanned`.
    fn banded(&self, isa: Isa, scanned: bool) -> Vec<u32> {
        let (cpu, mut sum) = (on_two(isa, self.arithmetic), ChunkSum::new(self.columns(), self.down.width));
        for level in LEVELS {
            let (ids, users) = self.band(level);
            let mut h = match scanned && level == Level::L4 {
                true => values(&cpu, &self.inputs(&cpu), self.activation, &self.neurons().to_level(level)).pick(&ids),
                false => values(&cpu, &self.inputs(&cpu), self.activation, &self.neurons().at(&ids).to_level(level)),
            };
            h.mask(&users);
            sum.add(&cpu, &self.down.rows().at(&ids).to_level(level), &h, 2);
        }
        bits(sum.rows())
    }

    /// All neurons at one level, as dense calls have them.
    fn dense(&self, isa: Isa, level: Level) -> Vec<u32> {
        let (cpu, mut sum) = (on_two(isa, self.arithmetic), ChunkSum::new(self.columns(), self.down.width));
        let h = values(&cpu, &self.inputs(&cpu), self.activation, &self.neurons().to_level(level));
        sum.add(&cpu, &self.down.rows().to_level(level), &h, 2);
        bits(sum.rows())
    }

    /// The rule, one column.
    fn defined(&self) -> Vec<u32> {
        let mut sums = vec![0.0; self.down.width];
        for level in LEVELS {
            let (ids, _) = self.band(level);
            let h: Vec<f32> = ids.iter().map(|j| self.defined_value(level, *j as usize)).collect();
            let down = self.down.rows().at(&ids).to_level(level);
            if !ids.is_empty() {
                sums.iter_mut()
                    .enumerate()
                    .for_each(|(i, sum)| *sum = defined_sum(self.arithmetic, &down, &h, i, *sum));
            }
        }
        bits(sums)
    }

    fn defined_value(&self, level: Level, j: usize) -> f32 {
        let dot = |records: &Records, bias: &Option<Vec<f32>>| {
            let dot = defined_dot(self.arithmetic, &records.rows().to_level(level), j, &self.x);
            bias.as_ref().map_or(dot, |bias| dot + bias[j])
        };
        let up = dot(&self.up, &self.biases[1]);
        let mut h = [self.gate.as_ref().map_or(up, |gate| dot(gate, &self.biases[0]))];
        portable::activate(self.activation, &mut h);
        if self.gate.is_some() { h[0] * up } else { h[0] }
    }
}

/// Of sixteen neurons so many are at 16, 8 and 4 bits; or a single one is used.
fn shares() -> impl Strategy<Value = Option<[u64; 3]>> {
    let whole = prop_oneof![Just([16, 0, 0]), Just([0, 16, 0]), Just([0, 0, 16]), Just([0; 3])];
    let mixed = prop_oneof![Just([4, 4, 8]), Just([1, 1, 0]), Just([0, 1, 1]), Just([2, 0, 5]), Just([0, 0, 1])];
    prop_oneof![1 => Just(None), 2 => whole.prop_map(Some), 5 => mixed.prop_map(Some)]
}

fn used(noise: &mut Noise, shares: Option<[u64; 3]>, count: usize, columns: usize) -> Vec<Option<Level>> {
    let Some([first, second, third]) = shares else {
        let (at, level) = (noise.next() as usize % count, LEVELS[noise.next() as usize % 3]);
        return (0..count * columns).map(|i| (i % count == at).then_some(level)).collect();
    };
    let one = |_| match noise.next() % 16 {
        share if share < first => Some(Level::L16),
        share if share < first + second => Some(Level::L8),
        share if share < first + second + third => Some(Level::L4),
        _ => None,
    };
    (0..count * columns).map(one).collect()
}

fn cases() -> impl Strategy<Value = Case> {
    let activation = prop::sample::select(vec![Activation::Silu, Activation::Relu, Activation::GeluTanh]);
    let sizes =
        (1usize..300, prop_oneof![4 => 1usize..60, 1 => Just(256usize)], prop_oneof![3 => 1usize..4, 1 => 4usize..33]);
    let switches = (any::<bool>(), any::<[bool; 2]>());
    (arithmetics(), activation, codings(), sizes, switches, shares(), any::<u64>()).prop_map(
        |(arithmetic, activation, coding, (width, count, columns), (gated, biased), shares, seed)| {
            let mut noise = Noise(seed);
            let scale = |noise: &mut Noise| f16::from_f32(0.1 * noise.factor(30));
            let mut records = || Records::new(coding, Level::L16, width, count, (0, 64)).random(&mut noise, scale);
            let (gate, up, down) = (gated.then(&mut records), records(), records());
            let mut numbers = |n: usize| (0..n).map(|_| noise.factor(20)).collect::<Vec<_>>();
            let (biases, x) = (biased.map(|biased| biased.then(|| numbers(count))), numbers(columns * width));
            Case { arithmetic, activation, gate, up, down, biases, x, used: used(&mut noise, shares, count, columns) }
        },
    )
}

proptest! {
    #[test]
    fn bands_add_what_is_documented_whatever_other_columns_use(case in cases(), scanned in any::<bool>()) {
        let want: Vec<u32> = (0..case.columns()).flat_map(|n| case.alone(n).defined()).collect();
        for isa in Isa::available() {
            prop_assert!(case.banded(isa, scanned) == want, "{}", isa.name());
        }
    }

    #[test]
    fn a_column_of_a_batch_has_the_bits_it_has_alone(case in cases(), n in any::<prop::sample::Index>()) {
        let n = n.index(case.columns());
        for isa in Isa::available() {
            let all = case.banded(isa, false);
            let column = &all[n * case.down.width..][..case.down.width];
            prop_assert!(case.alone(n).banded(isa, false) == column, "{}", isa.name());
        }
    }

    #[test]
    fn all_neurons_in_one_band_have_the_bits_of_dense_calls(case in cases(), level in 0usize..3) {
        let level = LEVELS[level];
        let case = Case { used: vec![Some(level); case.used.len()], ..case };
        for isa in Isa::available() {
            prop_assert!(case.banded(isa, level == Level::L4) == case.dense(isa, level), "{}", isa.name());
        }
    }
}

/// What a column does not use may be anything for another: it is written over, not multiplied.
#[test]
fn what_is_no_number_stays_with_the_columns_that_use_it() {
    let coding = Coding { form: Form::Affine, group: 64, cells: [1; 3] };
    for (level, how) in LEVELS.into_iter().flat_map(|level| [(level, Arithmetic::Integer), (level, Arithmetic::Float)])
    {
        let records = Records::new(coding, level, 70, 3, (0, 0)).random(&mut Noise(3), |_| f16::from_f32(0.01));
        let x: Vec<f32> = (0..140).map(|i| if i < 70 { 1.0 } else { f32::NAN }).collect();
        for isa in Isa::available() {
            let cpu = on_two(isa, how);
            let neurons = Neurons { gate: None, up: Linear { rows: records.rows(), bias: None } };
            let inputs = Inputs::new(&cpu, &x, 70, &[level]);
            let mut h = values(&cpu, &inputs, Activation::Silu, &neurons);
            assert!(h.column(1).all(f32::is_nan), "{}", isa.name());
            h.mask(&[0b01, 0b11, 0b01]);
            let mut sum = ChunkSum::new(2, 70);
            sum.add(&cpu, &records.rows(), &h, 2);
            let rows = sum.rows();
            assert!(rows[..70].iter().all(|sum| sum.is_finite()) && rows[70..].iter().all(|sum| sum.is_nan()));
            h.mask(&[0b01; 3]);
            let mut sum = ChunkSum::new(2, 70);
            sum.add(&cpu, &records.rows(), &h, 2);
            assert_eq!(bits(sum.rows())[70..], [0; 70], "{} at {level:?} in {how:?}", isa.name());
        }
    }
}
