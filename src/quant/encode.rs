//! From weights to planes.

use super::half_round::{round_down, round_up};
use crate::config::{Coding, Form};
use crate::types::{BLOCK, Plane};
use half::f16;

/// Why a group cannot be coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupError {
    /// Group inside the record.
    pub group: usize,
    /// The reason.
    pub why: &'static str,
}

/// A group's stored scales: `lo` is unused (0) in the symmetric form.
struct Scales {
    lo: f16,
    size: f16,
}

/// Codes one record of weights into its planes and returns how many exact zeros lie in groups that are not all zero
/// (those decode to half a cell instead of zero).
///
/// `planes[p]` is the record's part in plane `p` (`Coding::plane_bytes` long, scales behind the base codes); planes that
/// are not stored are left out from the end.
pub fn encode_record(coding: &Coding, weights: &[f32], planes: &mut [&mut [u8]]) -> Result<usize, GroupError> {
    let mut zeros = 0;
    let code_bytes = weights.len().div_ceil(BLOCK) * Plane::Base.block_bytes();
    for (block, chunk) in weights.chunks(BLOCK).enumerate() {
        let mut codes = [0u16; BLOCK];
        for (part, group) in chunk.chunks(coding.group).enumerate() {
            let index = block * (BLOCK / coding.group) + part;
            let scales = group_scales(coding.form, group).map_err(|why| GroupError { group: index, why })?;
            zeros += inner_zeros(group);
            encode_group(coding.form, &scales, group, &mut codes[part * coding.group..]);
            put_scales(coding.form, &scales, &mut planes[0][code_bytes..], index);
        }
        put_codes(&codes, block, planes);
    }
    Ok(zeros)
}

fn inner_zeros(group: &[f32]) -> usize {
    let zeros = group.iter().filter(|w| **w == 0.0).count();
    if zeros == group.len() { 0 } else { zeros }
}

fn group_scales(form: Form, group: &[f32]) -> Result<Scales, &'static str> {
    if group.iter().any(|w| !w.is_finite()) {
        return Err("a weight is not finite");
    }
    let scales = match form {
        Form::Symmetric => Scales { lo: f16::ZERO, size: round_up(absmax(group)) },
        Form::Affine => affine_scales(group),
    };
    match scales.lo.is_finite() && scales.size.is_finite() {
        true => Ok(scales),
        false => Err("a weight is beyond what an f16 scale can hold (65504)"),
    }
}

fn absmax(group: &[f32]) -> f64 {
    group.iter().fold(0.0, |m: f64, w| m.max(f64::from(w.abs())))
}

fn affine_scales(group: &[f32]) -> Scales {
    let min = group.iter().fold(f64::INFINITY, |m, w| m.min(f64::from(*w)));
    let max = group.iter().fold(f64::NEG_INFINITY, |m, w| m.max(f64::from(*w)));
    let lo = round_down(min);
    Scales { lo, size: round_up(max - lo.to_f64()) }
}

fn encode_group(form: Form, scales: &Scales, group: &[f32], codes: &mut [u16]) {
    let (lo, size) = (scales.lo.to_f64(), scales.size.to_f64());
    if size == 0.0 {
        return;
    }
    for (code, weight) in codes.iter_mut().zip(group) {
        let w = f64::from(*weight);
        let cell = match form {
            Form::Symmetric => (w / size + 1.0) * 32768.0,
            Form::Affine => (w - lo) / size * 65536.0,
        };
        // Truncation is floor here: a cell below zero is clamped first.
        *code = cell.clamp(0.0, 65535.0) as u16;
    }
}

fn put_scales(form: Form, scales: &Scales, area: &mut [u8], index: usize) {
    let at = index * form.scale_bytes();
    match form {
        Form::Symmetric => area[at..at + 2].copy_from_slice(&scales.size.to_le_bytes()),
        Form::Affine => {
            area[at..at + 2].copy_from_slice(&scales.lo.to_le_bytes());
            area[at + 2..at + 4].copy_from_slice(&scales.size.to_le_bytes());
        }
    }
}

/// Byte i of a nibble plane holds weight i (low nibble) and weight i+32 (high nibble); byte i of `low` is weight i.
fn put_codes(codes: &[u16; BLOCK], block: usize, planes: &mut [&mut [u8]]) {
    for (plane, shift) in planes.iter_mut().take(2).zip([12u16, 8]) {
        for (i, byte) in plane[block * 32..block * 32 + 32].iter_mut().enumerate() {
            *byte = (codes[i] >> shift & 15) as u8 | ((codes[i + 32] >> shift & 15) as u8) << 4;
        }
    }
    if let Some(low) = planes.get_mut(2) {
        for (byte, code) in low[block * BLOCK..(block + 1) * BLOCK].iter_mut().zip(codes) {
            *byte = *code as u8;
        }
    }
}
