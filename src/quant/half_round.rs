//! f16 with a chosen direction of rounding: a scale must never be smaller than what it has to cover.

use half::f16;

/// The smallest f16 that is not below `x` (infinite when `x` is above 65504). Zero is +0.
pub fn round_up(x: f64) -> f16 {
    let nearest = f16::from_f64(x);
    unsigned_zero(if nearest.to_f64() < x { next_up(nearest) } else { nearest })
}

/// The largest f16 that is not above `x` (infinite when `x` is below -65504). Zero is +0.
pub fn round_down(x: f64) -> f16 {
    unsigned_zero(-round_up(-x))
}

/// Which zero is the least of 0 and -0 is the processor's choice, so only one of them is stored.
fn unsigned_zero(h: f16) -> f16 {
    if h == f16::ZERO { f16::ZERO } else { h }
}

fn next_up(h: f16) -> f16 {
    match h.to_bits() {
        0x8000 => f16::from_bits(1),
        bits if bits & 0x8000 != 0 => f16::from_bits(bits - 1),
        bits => f16::from_bits(bits + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounds_to_the_neighbour_on_the_right_side(x in -65504.0f64..65504.0, shift in 0i32..40) {
            let x = x * 0.5f64.powi(shift);
            let (up, down) = (round_up(x).to_f64(), round_down(x).to_f64());
            prop_assert!(down <= x && x <= up);
            prop_assert!(up == down || next_up(round_down(x)).to_f64() == up);
        }
    }

    #[test]
    fn tiny_becomes_the_smallest_subnormal_and_huge_infinite() {
        assert_eq!(round_up(1e-30).to_bits(), 1);
        assert_eq!(round_up(-1e-30).to_bits(), 0);
        assert!([0.0, -0.0].iter().all(|zero| round_up(*zero).to_bits() == 0 && round_down(*zero).to_bits() == 0));
        assert!(round_up(65504.1).is_infinite());
    }
}
