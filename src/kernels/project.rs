//! Dots of records with activations: q, k, v, gate, up, head. Each weight is decoded once for all N columns.
//!
//! **Order.** In f32: the order of [`super::lanes::dot`] over the zero-padded record. In int8: every group's dot is an
//! exact integer, scaled by one product (affine: a second product and a sum); group g's term goes to lane g modulo 16,
//! by rising g, and the lanes are folded by [`fold16`].

use super::lanes::{LANES, dot, fold16};
use super::{Isa, x86};
use crate::config::Form;
use crate::quant::{Int8, Record, Rows, codes_u8, scale, values};
use crate::types::{BLOCK, Level};
use rayon::prelude::*;

/// N activation rows, ready for the kernels.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Rows.
    pub count: usize,
    /// `[N][padded]`, zeros behind the width.
    padded: Vec<f32>,
    /// The same, quantised, for levels 4 and 8.
    int8: Option<Int8>,
}

impl Inputs {
    /// Pads rows of `width` values to whole blocks; `int8` quantises them as well.
    pub fn new(rows: &[f32], width: usize, int8: bool) -> Inputs {
        let blocks = width.div_ceil(BLOCK);
        let mut padded = vec![0.0; rows.len() / width * blocks * BLOCK];
        for (to, from) in padded.chunks_exact_mut(blocks * BLOCK).zip(rows.chunks_exact(width)) {
            to[..width].copy_from_slice(from);
        }
        let int8 = int8.then(|| Int8::quantise(&padded, blocks));
        Inputs { count: rows.len() / width, padded, int8 }
    }
}

/// What one thread needs for its rows.
#[derive(Debug)]
pub struct RowWork<'a> {
    rows: &'a Rows<'a>,
    inputs: &'a Inputs,
    weights: Vec<f32>,
    lanes: Vec<[f32; LANES]>,
}

/// `out[r][n] = rows[r] . inputs[n]`, on the current rayon pool. Level 16 is f32; levels 4 and 8 are int8 where the
/// inputs were quantised, else f32 over the decoded weights.
///
/// # Panics
/// If `out` is not `[rows][N]`.
pub fn project(isa: Isa, rows: &Rows, inputs: &Inputs, out: &mut [f32]) {
    assert_eq!(out.len(), rows.count * inputs.count, "outputs that do not fit rows and inputs");
    let work =
        || RowWork { rows, inputs, weights: vec![0.0; rows.blocks() * BLOCK], lanes: vec![[0.0; LANES]; inputs.count] };
    out.par_chunks_mut(inputs.count.max(1))
        .enumerate()
        .with_min_len(16)
        .for_each_init(work, |work, (r, out)| x86::project_row(isa, work, r, out));
}

/// One record against all inputs.
#[inline(always)]
pub(super) fn row(work: &mut RowWork, r: usize, out: &mut [f32]) {
    let record = work.rows.record(r);
    match &work.inputs.int8 {
        Some(int8) if work.rows.level != Level::L16 => row_int8(work.rows, &record, int8, &mut work.lanes, out),
        _ => row_f32(work, &record, out),
    }
}

#[inline(always)]
fn row_f32(work: &mut RowWork, record: &Record, out: &mut [f32]) {
    let Rows { coding, level, .. } = work.rows;
    for (block, weights) in work.weights.chunks_exact_mut(BLOCK).enumerate() {
        values(coding, *level, record, block, weights);
    }
    for (out, x) in out.iter_mut().zip(work.inputs.padded.chunks_exact(work.weights.len())) {
        *out = dot(&work.weights, x);
    }
}

#[inline(always)]
fn row_int8(rows: &Rows, record: &Record, x: &Int8, lanes: &mut [[f32; LANES]], out: &mut [f32]) {
    lanes.fill([0.0; LANES]);
    let mut codes = [0u8; BLOCK];
    for block in 0..x.blocks {
        codes_u8(rows.level, record, block, &mut codes);
        if rows.coding.group == BLOCK {
            add_group(rows, record, block, &codes, 0, x, block, lanes);
        } else {
            add_group(rows, record, 2 * block, &codes[..32], 0, x, block, lanes);
            add_group(rows, record, 2 * block + 1, &codes[32..], 32, x, block, lanes);
        }
    }
    for (out, lanes) in out.iter_mut().zip(lanes) {
        *out = fold16(*lanes);
    }
}

/// Adds the terms of one group (codes `at..` of its block) for every input.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn add_group(
    rows: &Rows,
    record: &Record,
    group: usize,
    codes: &[u8],
    at: usize,
    x: &Int8,
    block: usize,
    lanes: &mut [[f32; LANES]],
) {
    let s = scale(&rows.coding, rows.level, record.scales, group);
    for (n, lanes) in lanes.iter_mut().enumerate() {
        let index = n * x.blocks + block;
        let first = index * BLOCK + at;
        let halves = x.sums[index];
        let sum = if codes.len() == BLOCK { halves[0] + halves[1] } else { halves[at / 32] };
        let exact = (2 * dot_u8(codes, &x.codes[first..first + codes.len()]) + s.bias * sum) as f32;
        lanes[group % LANES] += match rows.coding.form {
            Form::Symmetric => exact * (s.step * x.scales[index]),
            Form::Affine => (exact * s.step + sum as f32 * s.lo) * x.scales[index],
        };
    }
}

/// Exact in i32: at most 64 * 255 * 127.
#[inline(always)]
fn dot_u8(codes: &[u8], x: &[i8]) -> i32 {
    codes.iter().zip(x).map(|(c, x)| i32::from(i16::from(*c)) * i32::from(i16::from(*x))).sum()
}
