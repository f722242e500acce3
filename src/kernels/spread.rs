//! How wide a record's scales make an interval around its dot.

#![forbid(unsafe_code)]

use super::lanes::LANES;
use super::{Isa, dispatch};
use crate::config::Form;

/// A number for each group of weights, none below 0; zeros behind the last.
#[derive(Clone, Debug)]
pub struct GroupNorms(Vec<[f32; LANES]>);

impl GroupNorms {
    /// Of numbers by group.
    pub fn new(numbers: impl IntoIterator<Item = f32>) -> GroupNorms {
        let numbers: Vec<f32> = numbers.into_iter().collect();
        let lanes = numbers.chunks(LANES).map(|part| {
            let mut lanes = [0.0; LANES];
            lanes[..part.len()].copy_from_slice(part);
            lanes
        });
        GroupNorms(lanes.collect())
    }

    /// Of group `group`.
    pub fn of(&self, group: usize) -> f32 {
        self.0.as_flattened()[group]
    }
}

/// Sums over the groups of a record, whose stored scales these are: of |size| times the group's norm, and of |lower end|
/// times it (0 in the symmetric form). In f32, in the order of [`super::lanes`]: the same bits on every set.
pub fn spread(isa: Isa, form: Form, scales: &[u8], norms: &GroupNorms) -> [f32; 2] {
    dispatch::spread(isa, form, scales, &norms.0)
}
