//! Activations to int8, in the layouts of the kernels.

use crate::kernels::columns::{STRIP, Strip};
use crate::quant::Int8;
use crate::types::BLOCK;

/// Quantises one row into its strips, as if zeros followed it.
#[inline(always)]
pub fn quantise(row: &[f32], strips: &mut [Strip]) {
    let (blocks, tail) = row.as_chunks::<BLOCK>();
    for (block, group) in blocks.iter().enumerate() {
        put(strips, block, &Int8::of(group));
    }
    if !tail.is_empty() {
        let mut padded = [0.0; BLOCK];
        padded[..tail.len()].copy_from_slice(tail);
        put(strips, blocks.len(), &Int8::of(&padded));
    }
}

#[inline(always)]
fn put(strips: &mut [Strip], block: usize, group: &Int8) {
    let (strip, block) = (&mut strips[block / STRIP], block % STRIP);
    (strip.scales[block], strip.sums[block]) = (group.scale, group.sum);
    for (half, codes) in group.codes.as_chunks().0.iter().enumerate() {
        *strip.half_mut(block, half) = *codes;
    }
}
