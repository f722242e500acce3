//! Activations as int8 per group of 64, for the integer kernels at levels 4 and 8.

use crate::types::BLOCK;

/// Below this a group is taken as zero: 127 / m would overflow.
const TINY: f32 = 1e-30;

/// N activation rows, quantised: `x ~ codes * scales` per group of 64.
#[derive(Clone, Debug)]
pub struct Int8 {
    /// 64-value blocks per row.
    pub blocks: usize,
    /// `[N][blocks * 64]`, zero padded.
    pub codes: Vec<i8>,
    /// `[N][blocks]`.
    pub scales: Vec<f32>,
    /// `[N][blocks]`: sums of the codes of each half of 32.
    pub sums: Vec<[i32; 2]>,
}

impl Int8 {
    /// Quantises rows of `blocks * 64` zero-padded values: `rint(x * (127 / max|x|))`, half to even.
    ///
    /// A group with a value that is not finite gets a NaN scale, so that the damage reaches the logits and is seen.
    pub fn quantise(rows: &[f32], blocks: usize) -> Int8 {
        let mut codes = vec![0i8; rows.len()];
        let scales = rows
            .chunks_exact(BLOCK)
            .zip(codes.chunks_exact_mut(BLOCK))
            .map(|(group, codes)| quantise_group(group, codes))
            .collect();
        let half = |half: &[i8]| half.iter().map(|c| i32::from(*c)).sum();
        let sums = codes.chunks_exact(BLOCK).map(|c| [half(&c[..BLOCK / 2]), half(&c[BLOCK / 2..])]).collect();
        Int8 { blocks, codes, scales, sums }
    }

    /// Rows quantised.
    pub fn len(&self) -> usize {
        self.scales.len() / self.blocks
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }
}

fn quantise_group(group: &[f32], codes: &mut [i8]) -> f32 {
    if group.iter().any(|x| !x.is_finite()) {
        return f32::NAN;
    }
    let max = group.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    if max < TINY {
        return 0.0;
    }
    let inverse = 127.0 / max;
    for (code, x) in codes.iter_mut().zip(group) {
        *code = (x * inverse).round_ties_even() as i8;
    }
    max / 127.0
}
