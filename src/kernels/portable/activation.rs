//! Activation functions in f32.

use crate::config::Activation;
use crate::kernels::exp::exp;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

/// Replaces every element: a loop of its own for each function, so that it can fill registers.
#[inline(always)]
pub fn activate(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => x.iter_mut().for_each(|x| *x = silu(*x)),
        Activation::QuickGelu => x.iter_mut().for_each(|x| *x = quick_gelu(*x)),
        other => {
            let act = function(other);
            x.iter_mut().for_each(|x| *x = act(*x));
        }
    }
}

/// The scalar function of an activation.
fn function(activation: Activation) -> fn(f32) -> f32 {
    match activation {
        Activation::Silu => silu,
        Activation::Relu => relu,
        Activation::Relu2 => relu2,
        Activation::Relu6 => relu6,
        Activation::Gelu => gelu,
        Activation::GeluTanh => gelu_tanh,
        Activation::QuickGelu => quick_gelu,
    }
}

/// `x * sigmoid(x)`, as PyTorch rounds it: one quotient.
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

// Not `f32::max`, which would turn a NaN into 0 and hide it.
fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

fn relu2(x: f32) -> f32 {
    relu(x) * relu(x)
}

fn relu6(x: f32) -> f32 {
    if x >= 6.0 { 6.0 } else { relu(x) }
}

/// Hendrycks and Gimpel, arXiv 1606.08415, section 2.
fn gelu(x: f32) -> f32 {
    x * 0.5 * (1.0 + libm::erff(x * FRAC_1_SQRT_2))
}

/// The tanh approximation of the same section.
fn gelu_tanh(x: f32) -> f32 {
    const BETA: f32 = SQRT_2 * FRAC_2_SQRT_PI * 0.5;
    let inner = BETA * (x + 0.044715 * (x * x * x));
    0.5 * x * (1.0 + libm::tanhf(inner))
}

/// The sigmoid approximation of the same section: `x * sigmoid(1.702 x)`, the sigmoid rounded first.
#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x * (1.0 / (1.0 + exp(-1.702 * x)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Absolute error against f64 of an activation of |x| <= 30, per unit of max(1, |x|).
    const ACTIVATION_ABSOLUTE: f64 = 4.0 * f32::EPSILON as f64;

    fn exact(activation: Activation, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::Silu => x * sigmoid(x),
            Activation::Relu => x.max(0.0),
            Activation::Relu2 => x.max(0.0).powi(2),
            Activation::Relu6 => x.clamp(0.0, 6.0),
            Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::QuickGelu => x * sigmoid(1.702 * x),
        }
    }

    proptest! {
        #[test]
        fn activations_are_near_their_exact_functions(x in -30f32..30.0) {
            for activation in Activation::ALL {
                let (got, want) = (f64::from(function(activation)(x)), exact(activation, f64::from(x)));
                let tolerance = ACTIVATION_ABSOLUTE * want.abs().max(f64::from(x.abs())).max(1.0);
                prop_assert!((got - want).abs() <= tolerance, "{activation:?}({x}) is {got}, not {want}");
            }
        }
    }

    #[test]
    fn far_arguments_saturate() {
        for activation in Activation::ALL {
            let act = function(activation);
            assert_eq!(act(-200.0).abs(), 0.0, "{activation:?}");
            assert!(act(f32::NAN).is_nan(), "{activation:?}");
            assert_eq!(act(0.0), 0.0, "{activation:?}");
        }
        assert_eq!(silu(200.0), 200.0);
        assert_eq!(relu6(200.0), 6.0);
        assert_eq!(relu2(3.0), 9.0);
    }

    #[test]
    fn known_values() {
        // Phi(1), from tables of the normal distribution.
        assert!((gelu(1.0) - 0.841_344_8).abs() < 1e-7);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-7);
    }
}
