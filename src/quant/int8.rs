//! Activations as int8 per group of 64, for dots at levels 4 and 8.

use crate::types::BLOCK;

/// Below this a group is taken as zero: 127 / m would overflow.
const TINY: f32 = 1e-30;

/// A group of 64 activations: `x ~ codes * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Int8 {
    /// Within -127..=127.
    pub codes: [i8; BLOCK],
    /// What a code of 1 stands for.
    pub scale: f32,
    /// The sum of the codes, times the scale.
    pub sum: f32,
}

impl Int8 {
    /// Quantises a group: `rint(x * (127 / max|x|))`, half to even.
    ///
    /// A group with a value that is not finite gets a NaN scale, so that the damage reaches the logits and is seen.
    #[inline(always)]
    pub fn of(group: &[f32; BLOCK]) -> Int8 {
        let (codes, scale) = coded(group);
        Int8 { codes, scale, sum: codes.iter().map(|c| i32::from(*c)).sum::<i32>() as f32 * scale }
    }
}

#[inline(always)]
fn coded(group: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    if !group.iter().all(|x| x.is_finite()) {
        return ([0; BLOCK], f32::NAN);
    }
    let max = group.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    if max < TINY {
        return ([0; BLOCK], 0.0);
    }
    let inverse = 127.0 / max;
    (group.map(|x| (x * inverse).round_ties_even() as i8), max / 127.0)
}
