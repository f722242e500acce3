//! Dots of records with activations: q, k, v, gate, up, head. Each weight is decoded once for all N columns.
//!
//! **Order.** In f32: the order of [`super::lanes::dot`] over the zero-padded record. In int8: every group's dot is an
//! exact integer. Group g adds to lane g modulo 16, by rising g, in two fused multiply-adds:
//! `lane += cell * (dot * scale)`, then `lane += origin * (sum * scale)`. The lanes are folded by [`fold16`].

use super::lanes::{LANES, fold16};
use super::panel::Panel;
use super::{Isa, x86};
use crate::config::Coding;
use crate::quant::{Cells, Eight, Int8, Record, Rows, cells, codes_u8, values};
use crate::types::{BLOCK, Level};
use rayon::prelude::*;

/// N activation rows, ready for the kernels.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Rows.
    pub count: usize,
    /// `[runs][N][64 * blocks of the run]`, zeros behind the width: columns of one run lie close together, where whole
    /// columns, a power of two apart, would push each other out of the caches.
    runs: Vec<f32>,
    /// Blocks of a column.
    blocks: usize,
    /// The same, quantised, for levels 4 and 8.
    pub(super) int8: Option<Int8>,
    /// The quantised ones by eights, where there are several.
    pub(super) eights: Vec<Eight>,
}

impl Inputs {
    /// Pads rows of `width` values to whole blocks; `int8` quantises them as well.
    pub fn new(isa: Isa, rows: &[f32], width: usize, int8: bool) -> Inputs {
        let blocks = width.div_ceil(BLOCK);
        let (count, int8) = (rows.len() / width, int8.then(|| x86::quantise(isa, &padded(rows, width), blocks)));
        let eights = int8.as_ref().filter(|_| count > 1).map_or(vec![], |x| x.by_eight(blocks));
        Inputs { count, runs: in_runs(rows, width), blocks, int8, eights }
    }

    /// The blocks of the only column.
    #[inline(always)]
    pub(super) fn column(&self) -> &[[[f32; LANES]; BLOCK / LANES]] {
        self.runs.as_chunks().0.as_chunks().0
    }

    /// The activations of a run of blocks, `[N][64 * blocks of the run]`.
    #[inline(always)]
    pub(super) fn run(&self, run: usize) -> &[f32] {
        let all = run * RUN * BLOCK * self.count;
        &self.runs[all..][..RUN.min(self.blocks - run * RUN) * BLOCK * self.count]
    }
}

/// Rows with zeros up to whole blocks.
fn padded(rows: &[f32], width: usize) -> Vec<f32> {
    let length = width.div_ceil(BLOCK) * BLOCK;
    let mut padded = vec![0.0; rows.len() / width * length];
    for (to, from) in padded.chunks_exact_mut(length).zip(rows.chunks_exact(width)) {
        to[..width].copy_from_slice(from);
    }
    padded
}

/// The same as `[runs][N][64 * blocks of the run]`.
fn in_runs(rows: &[f32], width: usize) -> Vec<f32> {
    let length = width.div_ceil(BLOCK) * BLOCK;
    let mut runs = Vec::with_capacity(rows.len() / width * length);
    for from in (0..length).step_by(RUN * BLOCK) {
        let to = length.min(from + RUN * BLOCK);
        for row in rows.chunks_exact(width) {
            let end = runs.len() + to - from;
            runs.extend_from_slice(&row[from..width.min(to)]);
            runs.resize(end, 0.0);
        }
    }
    runs
}

/// What one thread needs for its rows.
#[derive(Debug)]
pub struct RowWork<'a> {
    pub(super) rows: &'a Rows<'a>,
    pub(super) inputs: &'a Inputs,
    /// What a path decodes into.
    pub(super) weights: Vec<f32>,
    /// Sums in the making, as many as a path takes at a time.
    pub(super) lanes: Vec<[f32; LANES]>,
}

/// Blocks of a run: as many scales as a register holds; decoded, those of a task's records take 64 KiB.
pub(super) const RUN: usize = 16;

/// Half a block.
const HALF: usize = BLOCK / 2;

/// Records of a task with one column: enough to pay for its dispatch (37 KB at 4 bits and d = 4096), few enough to
/// balance.
pub(super) const TASK: usize = LANES;

/// Records of a task with several columns: two registers' worth for every pass over the activations.
const WIDE_TASK: usize = 2 * LANES;

/// `out[r][n] = rows[r] . inputs[n]`, on the current rayon pool. Level 16 is f32; levels 4 and 8 are int8 where the
/// inputs were quantised, else f32 over the decoded weights.
///
/// # Panics
/// If `out` is not for these rows and inputs.
pub fn project(isa: Isa, rows: &Rows, inputs: &Inputs, out: &mut Panel) {
    project_all(isa, inputs, [(rows, out)]);
}

/// [`project`] of several runs of records at once: the pool meets once for all of them.
///
/// # Panics
/// As `project`.
pub fn project_all<'a>(isa: Isa, inputs: &Inputs, jobs: impl IntoIterator<Item = (&'a Rows<'a>, &'a mut Panel)>) {
    let records = if inputs.count == 1 { TASK } else { WIDE_TASK };
    let mut tasks = Vec::new();
    for (rows, out) in jobs {
        let fits = out.records() == rows.count && out.count() == inputs.count;
        assert!(fits, "outputs that do not fit rows and inputs");
        let parts = out.tiles_mut().chunks_mut((records / LANES * inputs.count).max(1));
        tasks.extend(parts.enumerate().map(|(task, out)| (rows, task * records, out)));
    }
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (rows, first, out)| {
        let Scratch { weights, lanes } = std::mem::take(scratch);
        let mut work = RowWork { rows, inputs, weights, lanes };
        x86::project_task(isa, &mut work, first, out);
        *scratch = Scratch { weights: work.weights, lanes: work.lanes };
    });
}

/// What a thread keeps between tasks.
#[derive(Default)]
struct Scratch {
    weights: Vec<f32>,
    lanes: Vec<[f32; LANES]>,
}

impl RowWork<'_> {
    /// The quantised inputs, where they are what the rows are multiplied with.
    pub(super) fn int8(&self) -> Option<&Int8> {
        self.inputs.int8.as_ref().filter(|_| self.rows.level != Level::L16)
    }
}

/// The records from `first` on that fill a tile `[N][16]` of the output.
pub(super) fn in_tile(rows: &Rows, first: usize) -> usize {
    LANES.min(rows.count - first)
}

/// Records `first..` against all inputs: `out` is `[tiles][N][16]`.
#[inline(always)]
pub(super) fn task(work: &mut RowWork, first: usize, out: &mut [[f32; LANES]]) {
    for (tile, out) in out.chunks_exact_mut(work.inputs.count).enumerate() {
        let first = first + tile * LANES;
        for r in 0..in_tile(work.rows, first) {
            let record = work.rows.record(first + r);
            match &work.inputs.int8 {
                Some(int8) if work.rows.level != Level::L16 => {
                    row_int8(work.rows, &record, int8, &mut work.lanes, r, out)
                }
                _ => row_f32(work, &record, r, out),
            }
        }
    }
}

#[inline(always)]
fn row_f32(work: &mut RowWork, record: &Record, r: usize, out: &mut [[f32; LANES]]) {
    let Rows { coding, level, .. } = work.rows;
    work.weights.resize(work.rows.blocks() * BLOCK, 0.0);
    for (block, weights) in work.weights.chunks_exact_mut(BLOCK).enumerate() {
        values(coding, *level, record, block, weights);
    }
    for (n, out) in out.iter_mut().enumerate() {
        out[r] = dot(&work.weights, work.inputs, n);
    }
}

/// `lanes::dot` of weights with column `n`, run by run.
#[inline(always)]
fn dot(weights: &[f32], inputs: &Inputs, n: usize) -> f32 {
    let mut lanes = [0.0; LANES];
    for (run, weights) in weights.chunks(RUN * BLOCK).enumerate() {
        let x = &inputs.run(run)[n * weights.len()..][..weights.len()];
        for (w, x) in weights.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
            lanes = std::array::from_fn(|i| lanes[i] + w[i] * x[i]);
        }
    }
    fold16(lanes)
}

#[inline(always)]
fn row_int8(rows: &Rows, record: &Record, x: &Int8, lanes: &mut Vec<[f32; LANES]>, r: usize, out: &mut [[f32; LANES]]) {
    lanes.clear();
    lanes.resize(out.len(), [0.0; LANES]);
    for block in 0..rows.blocks() {
        let codes = codes_u8(rows.level, record, block);
        let of_half = |half: usize| {
            cells(&rows.coding, rows.level, record.scales, (block * BLOCK + half * HALF) / rows.coding.group)
        };
        let both = [of_half(0), of_half(1)];
        for (n, lanes) in lanes.iter_mut().enumerate() {
            add_block(&rows.coding, block, &both, &codes, x, n, lanes);
        }
    }
    for (out, lanes) in out.iter_mut().zip(lanes) {
        out[r] = fold16(*lanes);
    }
}

/// Adds the terms of one block, one group or two, for input `n`.
#[inline(always)]
fn add_block(
    coding: &Coding,
    block: usize,
    cells: &[Cells; 2],
    codes: &[[u8; HALF]; 2],
    x: &Int8,
    n: usize,
    lanes: &mut [f32; LANES],
) {
    let halves = [x.half(n, block, 0), x.half(n, block, 1)];
    let dots = [dot_u8(&codes[0], halves[0]), dot_u8(&codes[1], halves[1])];
    let scale = x.scale(n, block);
    if coding.group == BLOCK {
        add_term(&mut lanes[block % LANES], &cells[0], (dots[0] + dots[1]) as f32 * scale, x.sum(n, block));
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
