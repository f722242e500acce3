//! Dots of records with columns, in the order that [`crate::kernels::project`] states.

use crate::config::Coding;
use crate::kernels::columns::{F32Columns, HALF, Int8Columns, STRIP, Strip};
use crate::kernels::groups::{Groups, kept};
use crate::kernels::lanes::{LANES, fold16};
use crate::kernels::work::{Dots, Job, record_by_record};
use crate::quant::{Cells, Record, Rows, cells, codes_u8, values};
use crate::types::{BLOCK, CHUNK, Level};

/// Bytes of a thread's decoded record.
pub fn kept_f32(blocks: usize) -> usize {
    blocks * size_of::<[f32; BLOCK]>()
}

/// In f32; `out` is `[micropanels][N][16]`.
#[inline(always)]
pub fn dots_f32(work: &Dots<F32Columns>, out: &mut [[f32; LANES]]) {
    let mut weights = vec![0.0; work.rows.blocks() * BLOCK];
    for (i, out) in out.chunks_exact_mut(work.x.columns).enumerate() {
        for (lane, r) in work.micropanel(i).enumerate() {
            decode(work.rows, r, &mut weights);
            for (n, out) in out.iter_mut().enumerate() {
                out[lane] = dot(&weights, work.x, n);
            }
        }
    }
}

/// The weights of record `r`.
#[inline(always)]
fn decode(rows: &Rows, r: usize, weights: &mut [f32]) {
    let record = rows.record(r);
    for (block, weights) in weights.chunks_exact_mut(BLOCK).enumerate() {
        values(&rows.coding, rows.level, &record, block, weights);
    }
}

/// `lanes::dot` of weights with column `n`, strip by strip.
#[inline(always)]
fn dot(weights: &[f32], x: &F32Columns, n: usize) -> f32 {
    let mut lanes = [0.0; LANES];
    for (strip, weights) in weights.chunks(STRIP * BLOCK).enumerate() {
        let x = &x.strip(strip)[n * weights.len()..][..weights.len()];
        for (w, x) in weights.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
            lanes = std::array::from_fn(|i| lanes[i] + w[i] * x[i]);
        }
    }
    fold16(lanes)
}

/// Bytes of a thread's sums of so many columns, and of half a block that an accumulation reads.
pub fn kept_int8(columns: usize) -> usize {
    columns * size_of::<[f32; LANES]>() + CHUNK * (size_of::<[u8; HALF]>() + size_of::<Cells>())
}

/// In int8; `out` is `[micropanels][N][16]`.
#[inline(always)]
pub fn dots_int8(work: &Dots<Int8Columns>, out: &mut [[f32; LANES]]) {
    let mut lanes = vec![[0.0; LANES]; work.x.columns];
    for (i, out) in out.chunks_exact_mut(work.x.columns).enumerate() {
        for (lane, r) in work.micropanel(i).enumerate() {
            add_record(work.rows, r, work.x, &mut lanes);
            for (out, lanes) in out.iter_mut().zip(&mut lanes) {
                out[lane] = fold16(std::mem::take(lanes));
            }
        }
    }
}

/// In int8 with one column, of groups whose dots are kept or, of base, known.
#[inline(always)]
pub fn dots_groups(jobs: &mut [Job<Int8Columns>]) {
    record_by_record(jobs, |work, r, out| {
        let (rows, record, mut lanes) = (work.rows, work.rows.record(r), [0.0; LANES]);
        for block in 0..rows.blocks() {
            let (x, of_strip) = (&work.x.strips[block / STRIP], block % STRIP);
            let cells = cells(&rows.coding, rows.level, record.scales, block);
            let dot = dot_group(work, r, &record, block) as f32 * x.scales[of_strip];
            add_term(&mut lanes[block % LANES], &cells, dot, x.sums[of_strip]);
        }
        *out = fold16(lanes);
    });
}

/// The exact dot of group `block` of record `r`.
#[inline(always)]
fn dot_group(work: &mut Dots<Int8Columns>, r: usize, record: &Record, block: usize) -> i32 {
    let (strip, of_strip) = (block / STRIP, block % STRIP);
    let x = &work.x.strips[strip];
    let dot = |[low, high]: [[u8; HALF]; 2]| dot_u8(&low, x.half(of_strip, 0)) + dot_u8(&high, x.half(of_strip, 1));
    let nibbles =
        |plane| dot(codes_u8(Level::L4, &Record { codes: [record.codes[plane], &[], &[]], ..*record }, block));
    match &mut work.groups {
        Groups::Passing => dot(codes_u8(work.rows.level, record, block)),
        Groups::Kept(of_task) => {
            let dot = nibbles(0);
            kept(of_task, r - work.first, work.x.strips.len())[strip].set(of_strip, dot);
            dot
        }
        Groups::Known(known) => 16 * known.record(r)[strip].get(of_strip) + nibbles(1),
    }
}

/// Adds the terms of record `r` to every column's lanes.
#[inline(always)]
fn add_record(rows: &Rows, r: usize, x: &Int8Columns, lanes: &mut [[f32; LANES]]) {
    let record = rows.record(r);
    for block in 0..rows.blocks() {
        let codes = codes_u8(rows.level, &record, block);
        let of_half = |half: usize| {
            cells(&rows.coding, rows.level, record.scales, (block * BLOCK + half * HALF) / rows.coding.group)
        };
        let both = [of_half(0), of_half(1)];
        for (n, lanes) in lanes.iter_mut().enumerate() {
            add_block(&rows.coding, block, &both, &codes, &x.column(n)[block / STRIP], lanes);
        }
    }
}

/// Adds the terms of one block, one group or two.
#[inline(always)]
fn add_block(
    coding: &Coding,
    block: usize,
    cells: &[Cells; 2],
    codes: &[[u8; HALF]; 2],
    x: &Strip,
    lanes: &mut [f32; LANES],
) {
    let of_strip = block % STRIP;
    let halves = [x.half(of_strip, 0), x.half(of_strip, 1)];
    let dots = [dot_u8(&codes[0], halves[0]), dot_u8(&codes[1], halves[1])];
    let scale = x.scales[of_strip];
    if coding.group == BLOCK {
        add_term(&mut lanes[block % LANES], &cells[0], (dots[0] + dots[1]) as f32 * scale, x.sums[of_strip]);
        return;
    }
    for half in [0, 1] {
        let sum = halves[half].iter().map(|x| i32::from(*x)).sum::<i32>();
        let lane = &mut lanes[(2 * block + half) % LANES];
        add_term(lane, &cells[half], dots[half] as f32 * scale, sum as f32 * scale);
    }
}

/// Adds one group, from the exact dot of its codes and the exact sum of its activations, both times their scale.
#[inline(always)]
fn add_term(lane: &mut f32, cells: &Cells, dot: f32, sum: f32) {
    *lane = cells.width.mul_add(dot, *lane);
    *lane = cells.origin.mul_add(sum, *lane);
}

/// Exact in i32: at most 32 * 255 * 127.
#[inline(always)]
fn dot_u8(codes: &[u8; HALF], x: &[i8; HALF]) -> i32 {
    codes.iter().zip(x).map(|(c, x)| i32::from(i16::from(*c)) * i32::from(i16::from(*x))).sum()
}
