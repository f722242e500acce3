//! Half precision to single, exactly, in integer operations that every register width has.

#![forbid(unsafe_code)]

use crate::types::KvRows;
use half::f16;

/// Rows of `head_dim` elements in single precision, each padded with zeros to `width`: themselves, or widened into
/// `scratch`, which held nothing or rows of the same sizes.
#[inline(always)]
pub fn widened<'a>(rows: KvRows<'a>, head_dim: usize, width: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
    scratch.resize(rows.elements() / head_dim * width, 0.0);
    let to = scratch.chunks_exact_mut(width);
    match rows {
        KvRows::F32(all) if head_dim == width => return all,
        KvRows::F32(all) => {
            to.zip(all.chunks_exact(head_dim)).for_each(|(to, from)| to[..head_dim].copy_from_slice(from));
        }
        KvRows::F16(all) => to.zip(all.chunks_exact(head_dim)).for_each(|(to, from)| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = widen(*from));
        }),
    }
    scratch
}

/// One number. Subnormals go through a subtraction of normals, so that no slow operand arises.
#[inline(always)]
fn widen(x: f16) -> f32 {
    const EXPONENT: u32 = 0x7c00 << 13;
    let bits = u32::from(x.to_bits());
    let (sign, size) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
    let normal = size + (112 << 23);
    let subnormal = (f32::from_bits(size + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let special = size + (224 << 23);
    let exponent = size & EXPONENT;
    let value = if exponent == 0 { subnormal } else { normal };
    f32::from_bits(sign | if exponent == EXPONENT { special } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_widens_exactly() {
        for bits in 0..=u16::MAX {
            let x = f16::from_bits(bits);
            let (have, want) = (widen(x), x.to_f32());
            assert!(
                have.to_bits() == want.to_bits() || have.is_nan() && want.is_nan(),
                "{bits:04x}: {have} for {want}"
            );
        }
    }
}
