//! Factors of an accumulation as integers of 16 bits, so that its sums are exact and no order matters.
//!
//! What record j adds to a weight's column is `h_j * (origin + code * cell)`. The part with the code becomes
//! `q_j * code`, where `q_j = rint(h_j / largest h * (TOP / largest cell * cell))`: up to 15 bits and a sign for all
//! records of a step together. Rounding them costs a thousandth of what int8 activations do (docs/format.md, 6).

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
