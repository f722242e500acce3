//! From planes to weights. The f32 expressions are part of the format (docs/format.md): no FMA, one order.

use super::record::Record;
use crate::config::{Coding, Form};
use crate::types::{BLOCK, Level};
use std::array::from_fn;

/// A group's scale at a level: `value = lo + (2 * code + bias) as f32 * step`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Half a cell.
    pub step: f32,
    /// Lower end; 0 in the symmetric form, whose `bias` carries it.
    pub lo: f32,
    /// Added to twice the code.
    pub bias: i32,
}

/// The scale of group `group` of a record, for codes of `level`.
#[inline(always)]
pub fn scale(coding: &Coding, level: Level, scales: &[u8], group: usize) -> Scale {
    let half = |at: usize| widened([scales[at], scales[at + 1]]);
    let (size, lo) = match coding.form {
        Form::Symmetric => (half(2 * group), 0.0),
        Form::Affine => (half(4 * group + 2), half(4 * group)),
    };
    Scale { step: size * half_cell(coding.form, level), lo, bias: bias(coding, level) }
}

/// What is added to twice a code of `level`.
#[inline(always)]
pub fn bias(coding: &Coding, level: Level) -> i32 {
    let cell = i32::from(coding.cells[level as usize]);
    match coding.form {
        Form::Affine => cell,
        Form::Symmetric => cell - (1 << level.bits()),
    }
}

/// Half a cell of `level` as a share of a group's stored size.
#[inline(always)]
pub fn half_cell(form: Form, level: Level) -> f32 {
    match form {
        Form::Affine => inverse_power(level.bits() + 1),
        Form::Symmetric => inverse_power(level.bits()),
    }
}

/// A group's cells at a level (or those of as many groups as a register holds): code c stands for `origin + c * width`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cells<T = f32> {
    /// Size of a cell.
    pub width: T,
    /// What code 0 decodes to.
    pub origin: T,
}

/// The cells of group `group` of a record, for the integer kernels.
#[inline(always)]
pub fn cells(coding: &Coding, level: Level, scales: &[u8], group: usize) -> Cells {
    let s = scale(coding, level, scales, group);
    Cells { width: s.step + s.step, origin: s.lo + s.bias as f32 * s.step }
}

/// 2^-n, exactly.
#[inline(always)]
fn inverse_power(n: u32) -> f32 {
    f32::from_bits((127 - n) << 23)
}

/// An f16 as f32, exactly.
#[inline(always)]
fn widened(h: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(h));
    f32::from_bits(magnitude(bits).to_bits() | (bits & 0x8000) << 16)
}

/// The size of an f16 by its bits, as f32, exactly: the exponent is shifted into place and its bias corrected by a product.
/// Written out because the `half` crate asks for the processor's conversion at every call.
#[inline(always)]
pub fn magnitude(bits: u32) -> f32 {
    let size = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    // Infinities and what is not a number come out as 2^16 and more: f16 has no such numbers.
    if bits & 0x7c00 == 0x7c00 { f32::from_bits(0x7f80_0000 | (bits & 0x03ff) << 13) } else { size }
}

/// Half a block: weights 0..32 or 32..64, which share bytes of the nibble planes.
const HALF: usize = BLOCK / 2;

/// The codes of block `block` at level 4 or 8, one byte each, in halves of 32.
#[inline(always)]
pub fn codes_u8(level: Level, record: &Record, block: usize) -> [[u8; HALF]; 2] {
    let base: &[u8; HALF] = &record.codes[0].as_chunks().0[block];
    if level == Level::L4 {
        return [base.map(|b| b & 15), base.map(|b| b >> 4)];
    }
    let mid: &[u8; HALF] = &record.codes[1].as_chunks().0[block];
    [from_fn(|i| base[i] << 4 | (mid[i] & 15)), from_fn(|i| (base[i] & 0xf0) | mid[i] >> 4)]
}

/// The codes of block `block` at any level, in halves of 32.
#[inline(always)]
pub fn codes_u16(level: Level, record: &Record, block: usize) -> [[u16; HALF]; 2] {
    let high = codes_u8(level, record, block).map(|half| half.map(u16::from));
    if level != Level::L16 {
        return high;
    }
    let low: &[[u8; HALF]; 2] = &record.codes[2].as_chunks().0.as_chunks().0[block];
    from_fn(|half| from_fn(|i| high[half][i] << 8 | u16::from(low[half][i])))
}

/// The weights of block `block`; those beyond the record's width are whatever code 0 decodes to and must meet zeros.
#[inline(always)]
pub fn values(coding: &Coding, level: Level, record: &Record, block: usize, out: &mut [f32]) {
    let codes = codes_u16(level, record, block);
    for (half, out) in out.as_chunks_mut::<HALF>().0.iter_mut().enumerate() {
        let s = scale(coding, level, record.scales, (block * BLOCK + half * HALF) / coding.group);
        *out = codes[half].map(|code| s.lo + (2 * i32::from(code) + s.bias) as f32 * s.step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn every_f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (have, want) = (widened(bits.to_le_bytes()), f16::from_bits(bits).to_f32());
            assert!(have.to_bits() == want.to_bits() || (have.is_nan() && want.is_nan()), "{bits:04x}");
        }
    }
}
