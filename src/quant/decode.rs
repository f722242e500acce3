//! From planes to weights. The f32 expressions are part of the format (docs/format.md): no FMA, one order.

use super::record::Record;
use crate::config::{Coding, Form};
use crate::types::{BLOCK, Level};
use half::f16;

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
    let cell = i32::from(coding.cells[level as usize]);
    let half = |at: usize| f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32();
    match coding.form {
        Form::Symmetric => {
            let step = half(2 * group) * inverse_power(level.bits());
            Scale { step, lo: 0.0, bias: cell - (1 << level.bits()) }
        }
        Form::Affine => {
            let step = half(4 * group + 2) * inverse_power(level.bits() + 1);
            Scale { step, lo: half(4 * group), bias: cell }
        }
    }
}

/// 2^-n, exactly.
#[inline(always)]
fn inverse_power(n: u32) -> f32 {
    f32::from_bits((127 - n) << 23)
}

/// The codes of block `block` at level 4 or 8, one byte each.
#[inline(always)]
pub fn codes_u8(level: Level, record: &Record, block: usize, out: &mut [u8; BLOCK]) {
    let (low_half, high_half) = out.split_at_mut(32);
    let base = &record.codes[0][block * 32..block * 32 + 32];
    if level == Level::L4 {
        for i in 0..32 {
            low_half[i] = base[i] & 15;
            high_half[i] = base[i] >> 4;
        }
        return;
    }
    let mid = &record.codes[1][block * 32..block * 32 + 32];
    for i in 0..32 {
        low_half[i] = base[i] << 4 | (mid[i] & 15);
        high_half[i] = (base[i] & 0xf0) | mid[i] >> 4;
    }
}

/// The codes of block `block` at any level.
#[inline(always)]
pub fn codes_u16(level: Level, record: &Record, block: usize) -> [u16; BLOCK] {
    let mut bytes = [0u8; BLOCK];
    codes_u8(level, record, block, &mut bytes);
    let mut codes = bytes.map(u16::from);
    if level == Level::L16 {
        let low = &record.codes[2][block * BLOCK..(block + 1) * BLOCK];
        for i in 0..BLOCK {
            codes[i] = codes[i] << 8 | u16::from(low[i]);
        }
    }
    codes
}

/// The weights of block `block`; those beyond the record's width are whatever code 0 decodes to and must meet zeros.
#[inline(always)]
pub fn values(coding: &Coding, level: Level, record: &Record, block: usize, out: &mut [f32]) {
    let codes = codes_u16(level, record, block);
    let groups = BLOCK / coding.group;
    for part in 0..groups {
        let s = scale(coding, level, record.scales, block * groups + part);
        let range = part * coding.group..(part + 1) * coding.group;
        for (value, code) in out[range.clone()].iter_mut().zip(&codes[range]) {
            *value = s.lo + (2 * i32::from(*code) + s.bias) as f32 * s.step;
        }
    }
}
