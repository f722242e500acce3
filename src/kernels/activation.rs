//! FFN activations by the float32 formulas of PyTorch and transformers.
//!
//! Exponentials are those of softmax ([`super::exp`]), tanh and erf come from `libm`, not from the system's mathematical
//! library, so the bits are the same on every machine. A NaN stays a NaN in all of them.

use super::{Isa, dispatch};
use crate::config::Activation;
use rayon::prelude::*;

/// Numbers of a task: some microseconds.
const TASK: usize = 4096;

/// Replaces every element `x` by `activation(x)`, on the current rayon pool.
pub fn apply(isa: Isa, activation: Activation, x: &mut [f32]) {
    x.par_chunks_mut(TASK).for_each(|x| dispatch::activate(isa, activation, x));
}

/// The gated combination of an FFN: `gate[i] = activation(gate[i]) * up[i]`, on the current rayon pool.
///
/// # Panics
/// If the lengths differ.
pub fn combine(isa: Isa, activation: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up of different lengths");
    gate.par_chunks_mut(TASK).zip(up.par_chunks(TASK)).for_each(|(gate, up)| {
        dispatch::activate(isa, activation, gate);
        gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn combine_is_apply_then_product(row in proptest::collection::vec((-9f32..9.0, -9f32..9.0), 0..40)) {
            let (gate, up): (Vec<f32>, Vec<f32>) = row.into_iter().unzip();
            for activation in Activation::ALL {
                let (mut both, mut one) = (gate.clone(), gate.clone());
                combine(Isa::detect(), activation, &mut both, &up);
                apply(Isa::PORTABLE, activation, &mut one);
                one.iter_mut().zip(&up).for_each(|(h, u)| *h *= u);
                prop_assert_eq!(&both, &one);
            }
        }
    }
}
