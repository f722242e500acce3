//! The exponential of softmax and sigmoids: no branches, so that a loop over it fills registers of any width, and fused
//! multiply-adds where it says so, so that it gives the same bits in all of them.

#![forbid(unsafe_code)]

/// Below this, e^x is less than half of the least f32.
const LEAST: f32 = -104.0;
/// From here on, e^x is beyond f32: 2^128 and more.
const MOST: f32 = 89.0;
/// 1.5 * 2^23: adding it rounds to a whole number, which the lowest bits then hold.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// e^x within 1.5 units in the last place; 0 or infinity for what f32 cannot hold.
///
/// e^x = 2^n e^r with |r| <= ln 2 / 2, and e^r by its Taylor series to r^7 (the rest is below 2^-27).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = if x < LEAST { LEAST } else { x };
    let x = if x > MOST { MOST } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut series = 1.0f32 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        series = series.mul_add(r, factor);
    }
    let power = 1.0 + (r * r).mul_add(series, r);
    // In two steps: 2^-150 itself is no f32.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    power * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_the_exact_value_everywhere() {
        let mut worst = 0.0f64;
        for bits in (0x8000_0000u32..0xff80_0000).step_by(1009).chain((0..0x42b1_7218).step_by(1009)) {
            let x = f32::from_bits(bits);
            let exact = f64::from(x).exp();
            let unit = f64::from((exact as f32).max(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
            worst = worst.max((f64::from(exp(x)) - exact).abs() / unit);
        }
        assert!(worst <= 1.5, "{worst} units in the last place");
    }

    #[test]
    fn the_ends_are_exact() {
        assert_eq!((exp(0.0), exp(-0.0), exp(f32::NEG_INFINITY), exp(f32::MIN)), (1.0, 1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
        assert_eq!((exp(88.8), exp(1e9), exp(f32::INFINITY)), (f32::INFINITY, f32::INFINITY, f32::INFINITY));
        assert!(exp(-103.0) > 0.0);
    }
}
