//! Neurons of an FFN: what some of them add to its output, from their records in gate, up and down.

#![forbid(unsafe_code)]

use super::accumulate::ChunkSum;
use super::activation::{apply, combine};
use super::cpu::Cpu;
use super::panel::Panel;
use super::project::{Inputs, project_all};
use crate::config::Activation;
use crate::quant::Rows;

/// Records whose dots get a bias.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// The records.
    pub rows: Rows<'a>,
    /// A number for each, if there are any.
    pub bias: Option<&'a [f32]>,
}

/// Neurons, up to 256, by the records of their matrices.
#[derive(Clone, Copy, Debug)]
pub struct Neurons<'a> {
    /// None in an FFN without gate.
    pub gate: Option<Linear<'a>>,
    /// What the activation of the gate is multiplied with; without gate it is activated itself.
    pub up: Linear<'a>,
    /// What a neuron's value is multiplied with.
    pub down: Rows<'a>,
}

/// Adds `activation(gate . x) * (up . x) * down` of every neuron to `sum`, or `activation(up . x) * down` without gate, for
/// N inputs. So many `threads` share the sums, which changes no bit.
///
/// # Panics
/// If records, biases, inputs and sum do not fit, or the inputs were not prepared for the levels of gate and up.
pub fn add(cpu: &Cpu, inputs: &Inputs, activation: Activation, neurons: &Neurons, sum: &mut ChunkSum, threads: usize) {
    sum.add(cpu, &neurons.down, &values(cpu, inputs, activation, neurons), threads);
}

/// What the neurons give: `activation(gate . x) * (up . x)`, or `activation(up . x)` without gate.
///
/// # Panics
/// As [`add`].
pub fn values(cpu: &Cpu, inputs: &Inputs, activation: Activation, neurons: &Neurons) -> Panel {
    let Neurons { gate, up, .. } = neurons;
    let mut h = Panel::new(up.rows.records, inputs.columns);
    let Some(gate) = gate else {
        project_all(cpu, inputs, [[(&up.rows, &mut h)]]);
        up.shift(&mut h);
        cpu.run(|| apply(cpu.isa, activation, h.values_mut()));
        return h;
    };
    let mut ups = h.clone();
    project_all(cpu, inputs, [[(&gate.rows, &mut h), (&up.rows, &mut ups)]]);
    gate.shift(&mut h);
    up.shift(&mut ups);
    cpu.run(|| combine(cpu.isa, activation, h.values_mut(), ups.values_mut()));
    h
}

impl Linear<'_> {
    fn shift(&self, dots: &mut Panel) {
        if let Some(bias) = self.bias {
            dots.add_bias(bias);
        }
    }
}
