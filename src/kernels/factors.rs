//! Factors of an accumulation as integers of 16 bits, so that its sums are exact and no order matters.
//!
//! What record j adds to a weight's column is `h_j * (origin + code * cell)`. The part with the code becomes
//! `q_j * code`, where `q_j = rint(p_j * (TOP / largest |p|))` of the products `p_j = h_j * cell`: up to 15 bits and a
//! sign for all records of a call together (docs/format.md, 6). The scale is a column's and a group's own, so a record
//! with `h_j = 0` is as good as absent. For Gaussian factors and equal cells the rounding is some 70 times smaller than
//! that of int8 activations (by estimate).

#![forbid(unsafe_code)]

use super::panel::Panel;
use crate::types::CHUNK;

/// The largest factor. 255 * 32512 * 256 records stay below 2^31.
pub const TOP: f32 = 32512.0;

/// Products that are all below this have factors of 0: TOP over the largest would overflow for the least of them.
pub const TINY: f32 = 1e-30;

/// N columns of numbers for up to 256 records.
#[derive(Clone, Debug)]
pub struct Factors {
    /// N.
    pub columns: usize,
    /// `[N][256]`, zeros behind the last record.
    values: Vec<f32>,
}

impl Factors {
    /// Of a panel.
    ///
    /// # Panics
    /// If the panel has more than 256 records.
    pub fn new(panel: &Panel) -> Factors {
        assert!(panel.records() <= CHUNK, "factors of more records than a chunk has");
        let mut values = vec![0.0; panel.columns() * CHUNK];
        panel.put_rows(&mut values, CHUNK, 0);
        Factors { columns: panel.columns(), values }
    }

    /// Column `n`, by record.
    #[inline(always)]
    pub fn column(&self, n: usize) -> &[f32; CHUNK] {
        &self.values.as_chunks().0[n]
    }
}

/// The largest absolute value; not a number if there is one, since its bits are above all others.
#[inline(always)]
pub fn largest(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().fold(0, |most, value| most.max(value.to_bits() & 0x7fff_ffff)))
}

/// What turns products whose largest is `most` into factors; not a number where `most` is none.
#[inline(always)]
pub fn share(most: f32) -> f32 {
    if most < TINY { 0.0 } else { TOP / most }
}

/// The factor of a record from its product; 0 for what is not a number.
#[inline(always)]
pub fn factor(product: f32, share: f32) -> i32 {
    (product * share).round_ties_even() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_lie_record_by_record_with_zeros_behind() {
        let factors = Factors::new(&Panel::of_rows(&[0.5, -1.0, 2.0, 3.0], 2, 0..2));
        assert_eq!(factors.columns, 2);
        assert_eq!(factors.column(1)[..3], [2.0, 3.0, 0.0]);
        assert!(factors.column(0)[2..].iter().all(|h| *h == 0.0));
    }

    #[test]
    fn the_largest_is_exact_and_what_is_no_number_is_larger() {
        let next = f32::from_bits(1f32.to_bits() + 1);
        assert_eq!(largest(&[1.0, -next, 0.5]), next);
        assert_eq!(largest(&[1.0, f32::NEG_INFINITY]), f32::INFINITY);
        assert!(largest(&[f32::INFINITY, f32::NAN, 1.0]).is_nan());
    }

    #[test]
    fn factors_round_half_to_even_and_are_zero_where_there_is_no_number() {
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5].map(|product| factor(product, 1.0)), [0, 2, 2, 0, -2]);
        assert_eq!((factor(f32::NAN, 1.0), factor(f32::INFINITY, share(f32::INFINITY))), (0, 0));
        assert_eq!(factor(1.0, share(f32::NAN)), 0);
    }

    #[test]
    fn products_below_1e_30_have_factors_of_zero() {
        let below = f32::from_bits(TINY.to_bits() - 1);
        assert_eq!([0.0, f32::from_bits(1), below].map(|most| factor(most, share(most))), [0, 0, 0]);
        assert_eq!((factor(TINY, share(TINY)), factor(-TINY, share(TINY))), (32512, -32512));
    }

    proptest! {
        #[test]
        fn no_product_exceeds_the_largest_factor(most in TINY..=f32::MAX, part in -1f32..=1.0) {
            prop_assert_eq!(factor(most, share(most)), 32512);
            prop_assert!(factor(most * part, share(most)).abs() <= 32512);
        }
    }
}
