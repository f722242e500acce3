//! Root mean square norm (Zhang and Sennrich, arXiv 1910.07467, equation 4), in f32.

#![forbid(unsafe_code)]

use super::lanes::dot;

/// `out[i] = x[i] * (1 / sqrt(mean(x^2) + eps)) * gain[i]` for one row; all slices have the row's length.
///
/// The squares are summed in the order of [`super::lanes`], the products are rounded from left to right, so the
/// bits depend on the row alone. A row that is not finite, or whose squares overflow, gives no finite row of
/// itself: it is the caller's to notice.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == gain.len() && x.len() == out.len(), "norm of slices of different lengths");
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * scale * gain;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Relative error of an element against f64: the mean (its error halved by the root), root, quotient, two
    /// products.
    const RMS_NORM_RELATIVE: f64 = 16.0 * f32::EPSILON as f64;

    fn rms_norm_exact(x: &[f32], gain: &[f32], eps: f32) -> Vec<f64> {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        x.iter().zip(gain).map(|(x, gain)| f64::from(*x) * scale * f64::from(*gain)).collect()
    }

    proptest! {
        #[test]
        fn rms_norm_is_near_the_exact_norm(
            row in proptest::collection::vec((-50f32..50.0, -4f32..4.0), 1..300), eps in 1e-6f32..1e-3,
        ) {
            let (x, gain): (Vec<f32>, Vec<f32>) = row.into_iter().unzip();
            let mut out = vec![0.0; x.len()];
            rms_norm(&x, &gain, eps, &mut out);
            for (out, exact) in out.iter().zip(rms_norm_exact(&x, &gain, eps)) {
                let tolerance = RMS_NORM_RELATIVE * exact.abs() + f64::from(f32::MIN_POSITIVE);
                prop_assert!((f64::from(*out) - exact).abs() <= tolerance, "{out} is not {exact}");
            }
        }
    }

    #[test]
    fn a_zero_row_stays_zero() {
        let mut out = [1.0; 3];
        rms_norm(&[0.0; 3], &[2.0; 3], 1e-5, &mut out);
        assert_eq!(out, [0.0; 3]);
    }

    #[test]
    fn powers_of_two_in_the_gain_are_exact() {
        let x: Vec<f32> = (0..70).map(|i| (i as f32 * 0.7).sin()).collect();
        let (mut one, mut eight) = (vec![0.0; 70], vec![0.0; 70]);
        rms_norm(&x, &[1.0; 70], 1e-5, &mut one);
        rms_norm(&x, &[8.0; 70], 1e-5, &mut eight);
        assert_eq!(eight, one.iter().map(|v| 8.0 * v).collect::<Vec<_>>());
    }

    #[test]
    fn a_nan_reaches_every_element() {
        let mut out = [0.0; 2];
        rms_norm(&[f32::NAN, 1.0], &[1.0; 2], 1e-5, &mut out);
        assert!(out.iter().all(|v| v.is_nan()));
    }
}
