//! Neurons of an FFN: what some of them give, from their records in gate and up. What they add to its output is
//! [`super::accumulate::ChunkSum::add`] of that and their records in down.

#![forbid(unsafe_code)]

use super::activation::{apply, combine};
use super::cpu::Cpu;
use super::groups::{GroupDots, Groups};
use super::panel::Panel;
use super::project::{Inputs, project_groups};
use crate::config::Activation;
use crate::quant::Rows;
use crate::types::Level;
use std::borrow::Cow;

/// A number for each record of a call, added to its dots.
#[derive(Clone, Copy, Debug)]
pub struct Bias<'a> {
    numbers: &'a [f32],
    /// Which of the numbers; none for all of them.
    places: Option<&'a [u32]>,
}

/// Records whose dots get a bias.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// The records.
    pub rows: Rows<'a>,
    /// A number for each, if there are any.
    pub bias: Option<Bias<'a>>,
}

/// Neurons, up to 256, by the records that give their values.
#[derive(Clone, Copy, Debug)]
pub struct Neurons<'a> {
    /// None in an FFN without gate.
    pub gate: Option<Linear<'a>>,
    /// What the activation of the gate is multiplied with; without gate it is activated itself.
    pub up: Linear<'a>,
}

/// Exact dots of groups that [`values_kept`] keeps of neurons.
#[derive(Clone, Debug, Default)]
pub struct KeptDots {
    gate: GroupDots,
    up: GroupDots,
}

/// What the neurons give for N inputs: `activation(gate . x) * (up . x)`, or `activation(up . x)` without gate.
///
/// # Panics
/// If records, biases and inputs do not fit, or the inputs were not prepared for the levels of gate and up.
pub fn values(cpu: &Cpu, inputs: &Inputs, activation: Activation, neurons: &Neurons) -> Panel {
    computed(cpu, inputs, activation, neurons, [Groups::Passing, Groups::Passing])
}

/// [`values`] at 4 bits with one column, of which `kept` keeps what 8 bits can begin with.
///
/// # Panics
/// As [`values`], and where [`super::project::keeps_groups`] says no.
pub fn values_kept(
    cpu: &Cpu,
    inputs: &Inputs,
    activation: Activation,
    neurons: &Neurons,
    kept: &mut KeptDots,
) -> Panel {
    let KeptDots { gate, up } = kept;
    let gate = neurons.gate.map_or(Groups::Passing, |linear| gate.keep(&linear.rows));
    computed(cpu, inputs, activation, neurons, [gate, up.keep(&neurons.up.rows)])
}

/// [`values`] at 8 bits with one column, of the neurons at `places` among those that `kept` is of: of their base planes the
/// scales alone are read. The same bits.
///
/// # Panics
/// As [`values_kept`], and if `kept` is not of the same matrices or has no such places.
pub fn values_known(
    cpu: &Cpu,
    inputs: &Inputs,
    activation: Activation,
    neurons: &Neurons,
    kept: &KeptDots,
    places: &[u32],
) -> Panel {
    let gate = if neurons.gate.is_some() { kept.gate.at(places) } else { Groups::Passing };
    computed(cpu, inputs, activation, neurons, [gate, kept.up.at(places)])
}

/// `groups` are those of gate and up.
fn computed(
    cpu: &Cpu,
    inputs: &Inputs,
    activation: Activation,
    neurons: &Neurons,
    [of_gate, of_up]: [Groups; 2],
) -> Panel {
    let Neurons { gate, up } = neurons;
    let mut h = Panel::new(up.rows.records, inputs.columns);
    let Some(gate) = gate else {
        project_groups(cpu, inputs, [(&up.rows, &mut h, of_up)]);
        up.shift(&mut h);
        cpu.run(|| apply(cpu.isa, activation, h.values_mut()));
        return h;
    };
    let mut ups = h.clone();
    project_groups(cpu, inputs, [(&gate.rows, &mut h, of_gate), (&up.rows, &mut ups, of_up)]);
    gate.shift(&mut h);
    up.shift(&mut ups);
    cpu.run(|| combine(cpu.isa, activation, h.values_mut(), ups.values_mut()));
    h
}

impl<'a> Neurons<'a> {
    /// Of these neurons, those at `places`, in that order.
    ///
    /// # Panics
    /// As [`Rows::at`] and [`Bias::at`].
    pub fn at(&self, places: &'a [u32]) -> Neurons<'a> {
        Neurons { gate: self.gate.map(|gate| gate.at(places)), up: self.up.at(places) }
    }

    /// The same neurons at a lower level.
    ///
    /// # Panics
    /// As [`Rows::to_level`].
    pub fn to_level(&self, level: Level) -> Neurons<'a> {
        Neurons { gate: self.gate.map(|gate| gate.to_level(level)), up: self.up.to_level(level) }
    }
}

impl<'a> Linear<'a> {
    /// Of these records, those at `places`, in that order, with their biases.
    ///
    /// # Panics
    /// As [`Rows::at`] and [`Bias::at`].
    pub fn at(&self, places: &'a [u32]) -> Linear<'a> {
        Linear { rows: self.rows.at(places), bias: self.bias.map(|bias| bias.at(places)) }
    }

    /// The same records at a lower level.
    ///
    /// # Panics
    /// As [`Rows::to_level`].
    pub fn to_level(&self, level: Level) -> Linear<'a> {
        Linear { rows: self.rows.to_level(level), ..*self }
    }

    fn shift(&self, dots: &mut Panel) {
        if let Some(bias) = self.bias {
            let bias = bias.numbers();
            assert!(bias.len() == dots.records(), "{} biases of {} records", bias.len(), dots.records());
            dots.add_bias(&bias);
        }
    }
}

impl<'a> Bias<'a> {
    /// One number a record.
    pub fn of(numbers: &'a [f32]) -> Bias<'a> {
        Bias { numbers, places: None }
    }

    /// Those of the records at `places`, in that order.
    ///
    /// # Panics
    /// At a place behind the last number, and where these are listed themselves.
    pub fn at(self, places: &'a [u32]) -> Bias<'a> {
        let have = self.numbers.len();
        assert!(self.places.is_none(), "places among biases that are listed themselves");
        assert!(places.iter().all(|place| (*place as usize) < have), "a place that is not of the {have} biases");
        Bias { places: Some(places), ..self }
    }

    fn numbers(&self) -> Cow<'a, [f32]> {
        match self.places {
            None => Cow::Borrowed(self.numbers),
            Some(places) => places.iter().map(|place| self.numbers[*place as usize]).collect(),
        }
    }
}
