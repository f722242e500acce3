//! What the scales of a record and norms of activations make of each other.

use crate::config::Form;
use crate::kernels::lanes::{LANES, fold16};
use crate::quant::magnitude;

/// Sums over the groups of a record: of |size| times the group's norm, and of |lower end| times it (0 in the symmetric form).
#[inline(always)]
pub fn spread(form: Form, scales: &[u8], norms: &[[f32; LANES]]) -> [f32; 2] {
    match form {
        Form::Symmetric => [fold16(sizes(scales.as_chunks().0, norms)), 0.0],
        Form::Affine => sizes_and_lows(scales.as_chunks().0, norms).map(fold16),
    }
}

#[inline(always)]
fn sizes(scales: &[[u8; 2]], norms: &[[f32; LANES]]) -> [f32; LANES] {
    let (mut sums, (whole, rest)) = ([0.0; LANES], scales.as_chunks::<LANES>());
    let mut add = |scales: &[[u8; 2]; LANES], norms: &[f32; LANES]| {
        for i in 0..LANES {
            sums[i] += magnitude(u32::from(u16::from_le_bytes(scales[i]))) * norms[i];
        }
    };
    for (scales, norms) in whole.iter().zip(norms) {
        add(scales, norms);
    }
    if let Some(norms) = norms.get(whole.len()) {
        add(&padded(rest), norms);
    }
    sums
}

#[inline(always)]
fn sizes_and_lows(scales: &[[u8; 4]], norms: &[[f32; LANES]]) -> [[f32; LANES]; 2] {
    let (mut sizes, mut lows, (whole, rest)) = ([0.0; LANES], [0.0; LANES], scales.as_chunks::<LANES>());
    let mut add = |scales: &[[u8; 4]; LANES], norms: &[f32; LANES]| {
        for i in 0..LANES {
            let pair = u32::from_le_bytes(scales[i]);
            sizes[i] += magnitude(pair >> 16) * norms[i];
            lows[i] += magnitude(pair & 0xffff) * norms[i];
        }
    };
    for (scales, norms) in whole.iter().zip(norms) {
        add(scales, norms);
    }
    if let Some(norms) = norms.get(whole.len()) {
        add(&padded(rest), norms);
    }
    [sizes, lows]
}

#[inline(always)]
fn padded<const BYTES: usize>(scales: &[[u8; BYTES]]) -> [[u8; BYTES]; LANES] {
    let mut padded = [[0; BYTES]; LANES];
    padded[..scales.len()].copy_from_slice(scales);
    padded
}
