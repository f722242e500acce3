//! Factors of an accumulation as integers of 16 bits, so that its sums are exact and no order matters.
//!
//! What record j adds to a weight's column is `h_j * (origin + code * cell)`. The part with the code becomes
//! `q_j * code`, where `q_j = rint(h_j / largest h * (TOP / largest cell * cell))`: up to 15 bits and a sign for all
//! records of a step together (docs/format.md, 6). For Gaussian factors and equal cells their rounding is some 70 times
//! smaller than that of int8 activations (by estimate).

#![forbid(unsafe_code)]

use super::panel::Panel;
use crate::types::CHUNK;

/// The largest factor. 255 * 32512 * 256 records stay below 2^31.
pub const TOP: f32 = 32512.0;

/// Below this factors are taken as zeros: their reciprocal would overflow.
const TINY: f32 = 1e-30;

/// N columns of factors for up to 256 records.
#[derive(Clone, Debug)]
pub struct Factors {
    /// Columns.
    pub count: usize,
    /// `[N][256]`, zeros behind the last record.
    raw: Vec<f32>,
    /// The same over the largest of the column.
    units: Vec<f32>,
    /// The largest of every column; not a number where one of it is none.
    largest: Vec<f32>,
}

impl Factors {
    /// Of a panel.
    ///
    /// # Panics
    /// If the panel has more than 256 records.
    pub fn new(panel: &Panel) -> Factors {
        let (records, count) = (panel.records(), panel.count());
        assert!(records <= CHUNK, "factors of more records than a chunk has");
        let (mut raw, mut largest) = (vec![0.0; count * CHUNK], vec![0.0; count]);
        panel.put_rows(&mut raw, CHUNK, 0);
        let mut units = raw.clone();
        for (units, largest) in units.chunks_exact_mut(CHUNK).zip(&mut largest) {
            *largest = self::largest(units);
            let inverse = if *largest < TINY { 0.0 } else { 1.0 / *largest };
            units.iter_mut().for_each(|unit| *unit *= inverse);
        }
        Factors { count, raw, units, largest }
    }

    /// Column `n` as it came.
    #[inline(always)]
    pub fn raw(&self, n: usize) -> &[f32; CHUNK] {
        &self.raw.as_chunks().0[n]
    }

    /// Column `n` over its largest.
    #[inline(always)]
    pub fn units(&self, n: usize) -> &[f32; CHUNK] {
        &self.units.as_chunks().0[n]
    }

    /// The largest of column `n`.
    #[inline(always)]
    pub fn largest(&self, n: usize) -> f32 {
        self.largest[n]
    }
}

/// The largest absolute value; not a number if there is one, since its bits are above all others.
#[inline(always)]
pub fn largest(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().fold(0, |most, value| most.max(value.to_bits() & 0x7fff_ffff)))
}

/// The factor of a record from its unit and its share of the largest cell, times TOP; 0 for what is not a number.
#[inline(always)]
pub fn factor(unit: f32, share: f32) -> i32 {
    (unit * share).round_ties_even() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_any_size_keep_their_factors() {
        for size in [1e30, 1.0, 1e-6, 1e-29] {
            let factors = Factors::new(&Panel::of_rows(&[0.5 * size, -size, 0.0], 3, 0..3));
            assert_eq!((factors.largest(0), &factors.raw(0)[..3]), (size, &[0.5 * size, -size, 0.0][..]));
            let q: Vec<i32> = factors.units(0)[..4].iter().map(|unit| factor(*unit, TOP)).collect();
            assert_eq!(q, [16256, -32512, 0, 0], "{size}");
        }
        let tiny = Factors::new(&Panel::of_rows(&[1e-31, -1e-32], 2, 0..2));
        assert_eq!(tiny.units(0)[..2], [0.0, -0.0]);
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
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5].map(|share| factor(1.0, share)), [0, 2, 2, 0, -2]);
        assert_eq!((factor(f32::NAN, 1.0), factor(0.0, f32::INFINITY)), (0, 0));
    }
}
