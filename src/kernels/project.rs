//! Dots of records with activations: q, k, v, gate, up, head. Each weight is decoded once for all N columns.
//!
//! **Order.** In f32: the order of [`super::lanes::dot`] over the zero-padded record. In int8: every group's dot is an
//! exact integer. Group g adds to lane g modulo 16, by rising g, in two fused multiply-adds:
//! `lane += cell * (dot * scale)`, then `lane += origin * (sum * scale)`. The lanes are folded by
//! [`super::lanes::fold16`].

#![forbid(unsafe_code)]

use super::columns::{EIGHT, F32Columns, Int8Columns, STRIP, Side, Strip};
use super::cpu::{Arithmetic, Cpu};
use super::groups::Groups;
use super::lanes::LANES;
use super::panel::Panel;
use super::work::{Dots, Job};
use super::{Isa, dispatch};
use crate::config::Coding;
use crate::quant::Rows;
use crate::types::{BLOCK, Level};
use rayon::prelude::*;

/// N activation rows, ready for the kernels: in int8, in f32 or in both, as the levels they will meet need it.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Rows.
    pub columns: usize,
    integer: Option<Int8Columns>,
    float: Option<F32Columns>,
}

impl Inputs {
    /// Rows of `width` values, for dots with records at these levels.
    pub fn new(cpu: &Cpu, rows: &[f32], width: usize, levels: &[Level]) -> Inputs {
        let meet = |integer| levels.iter().any(|level| cpu.arithmetic.is_integer(*level) == integer);
        cpu.run(|| Inputs {
            columns: rows.len() / width,
            integer: meet(true).then(|| quantised(cpu.isa, rows, width)),
            float: meet(false).then(|| in_strips(rows, width)),
        })
    }
}

/// Rows in f32, strip by strip.
fn in_strips(rows: &[f32], width: usize) -> F32Columns {
    let (columns, blocks) = (rows.len() / width, width.div_ceil(BLOCK));
    let mut values = vec![0.0; columns * blocks * BLOCK];
    values.par_chunks_mut(columns * STRIP * BLOCK).enumerate().for_each(|(strip, values)| {
        let first = strip * STRIP * BLOCK;
        for (to, row) in values.chunks_exact_mut(values.len() / columns).zip(rows.chunks_exact(width)) {
            let from = &row[first..width.min(first + to.len())];
            to[..from.len()].copy_from_slice(from);
        }
    });
    F32Columns { columns, blocks, values }
}

/// Rows in int8; eight of them are enough for a thread.
fn quantised(isa: Isa, rows: &[f32], width: usize) -> Int8Columns {
    let (columns, blocks) = (rows.len() / width, width.div_ceil(BLOCK));
    let each = blocks.div_ceil(STRIP);
    let mut strips = vec![Strip::EMPTY; columns * each];
    strips.par_chunks_mut(EIGHT * each).zip(rows.par_chunks(EIGHT * width)).for_each(|(strips, rows)| {
        let rows = rows.chunks_exact(width).zip(strips.chunks_exact_mut(each));
        rows.for_each(|(row, strips)| dispatch::quantise(isa, row, strips));
    });
    let (eights, sixteens) = match columns {
        1 => (vec![], vec![]),
        _ if dispatch::by_sixteen(isa, columns) => (vec![], side_by_side(&strips, each, blocks)),
        _ => (side_by_side(&strips, each, blocks), vec![]),
    };
    Int8Columns { columns, blocks, strips, eights, sixteens }
}

/// Columns of `each` strips by eights or sixteens.
fn side_by_side<T: Side>(strips: &[Strip], each: usize, blocks: usize) -> Vec<T> {
    let mut all = vec![T::EMPTY; (strips.len() / each).div_ceil(T::MANY) * blocks];
    all.par_chunks_mut(blocks).zip(strips.par_chunks(T::MANY * each)).for_each(|(side, strips)| {
        for (n, column) in strips.chunks_exact(each).enumerate() {
            for (block, side) in side.iter_mut().enumerate() {
                side.put(n, &column[block / STRIP], block % STRIP);
            }
        }
    });
    all
}

/// Tasks of a call with one column for each thread that shares it: few enough to balance.
const TASKS_ONE: usize = 8;

/// Records of such a task at most: 150 KB at 4 bits and d = 4096.
const RECORDS_ONE: usize = 4 * LANES;

/// Records of a task with several columns: two registers' worth for every pass over the activations.
const RECORDS_MANY: usize = 2 * LANES;

/// Records of a task where there are so many in all. With one column a thread alone reads all records from end to end: what
/// it asks memory for ahead of use ends with its task. A few, as lists leave them of a chunk, are not worth a second task.
fn of_task(cpu: &Cpu, columns: usize, all: usize) -> usize {
    match (columns, cpu.sharing()) {
        (1, 1) => all.next_multiple_of(LANES).max(LANES),
        (1, threads) if all > RECORDS_MANY => (all / (TASKS_ONE * threads) / LANES * LANES).clamp(LANES, RECORDS_ONE),
        _ => RECORDS_MANY,
    }
}

/// `out[r][n] = rows[r] . inputs[n]`: at level 16 in f32, at levels 4 and 8 in the arithmetic of `cpu`.
///
/// # Panics
/// If `out` is not for these rows and inputs, or the inputs were not prepared for the rows' level.
pub fn project(cpu: &Cpu, rows: &Rows, inputs: &Inputs, out: &mut Panel) {
    project_all(cpu, inputs, [[(rows, out)]]);
}

/// [`project`] of records in several places and at several levels at once: the threads meet once for all of them.
/// Matrices that share records, and their arithmetic, are one job, whose records are read in the order they lie in.
///
/// # Panics
/// As `project`.
pub fn project_all<'a, const K: usize>(
    cpu: &Cpu,
    inputs: &Inputs,
    jobs: impl IntoIterator<Item = [(&'a Rows<'a>, &'a mut Panel); K]>,
) {
    run(cpu, inputs, jobs.into_iter().map(|job| job.map(|(rows, out)| (rows, out, Groups::Passing))));
}

/// [`project`] of matrices that share records, whose groups' dots are kept or, of base, known: the same bits.
///
/// # Panics
/// As `project`, if the groups are not for the rows, and where [`keeps_groups`] says no.
pub fn project_groups<'a, const K: usize>(cpu: &Cpu, inputs: &Inputs, job: [Part<'a>; K]) {
    run(cpu, inputs, [job]);
}

/// Whether dots of groups can be kept and known: with one column, in integers, of groups of a block.
pub fn keeps_groups(cpu: &Cpu, columns: usize, coding: &Coding) -> bool {
    columns == 1 && cpu.arithmetic == Arithmetic::Integer && coding.group == BLOCK
}

/// Records, where their dots go, and what becomes of those of their groups.
pub type Part<'a> = (&'a Rows<'a>, &'a mut Panel, Groups<'a>);

fn run<'a, const K: usize>(cpu: &Cpu, inputs: &Inputs, jobs: impl IntoIterator<Item = [Part<'a>; K]>) {
    let jobs: Vec<_> = jobs.into_iter().collect();
    let of_job = |job: &[Part; K]| job.iter().map(|(rows, ..)| rows.records).max().unwrap_or(0);
    let records = of_task(cpu, inputs.columns, jobs.iter().map(of_job).sum());
    let mut all = Vec::new();
    for job in jobs {
        let micropanels = (records / LANES * inputs.columns).max(1);
        let integer = check(cpu, inputs, &job);
        match (integer, &inputs.integer, &inputs.float) {
            (true, Some(x), _) => all.extend(tasks(x, job, records, micropanels).into_iter().map(Task::Integer)),
            (false, _, Some(x)) => all.extend(tasks(x, job, records, micropanels).into_iter().map(Task::Float)),
            _ => panic!("inputs that were not prepared for the level of the rows"),
        }
    }
    cpu.run(|| all.into_par_iter().for_each(|task| task.run(cpu.isa)));
}

/// Some records of matrices that share records.
enum Task<'a, const K: usize> {
    Integer([Job<'a, 'a, Int8Columns>; K]),
    Float([Job<'a, 'a, F32Columns>; K]),
}

impl<const K: usize> Task<'_, K> {
    fn run(self, isa: Isa) {
        match self {
            Task::Integer(mut jobs) => dispatch::dots_int8(isa, &mut jobs),
            Task::Float(jobs) => jobs.into_iter().for_each(|(work, out)| dispatch::dots_f32(isa, &work, out)),
        }
    }
}

/// Whether a job is one of integers; refuses what does not fit.
fn check<const K: usize>(cpu: &Cpu, inputs: &Inputs, job: &[Part; K]) -> bool {
    let fits = |(rows, out, _): &Part| out.records() == rows.records && out.columns() == inputs.columns;
    assert!(job.iter().all(fits), "outputs that do not fit the rows");
    let keeps = |rows: &Rows| keeps_groups(cpu, inputs.columns, &rows.coding);
    let fits = |(rows, _, groups): &Part| groups.fit(rows) && (groups.pass() || keeps(rows));
    assert!(job.iter().all(fits), "dots of groups that do not fit the rows");
    let mut integer = job.iter().map(|(rows, ..)| cpu.arithmetic.is_integer(rows.level));
    let first = integer.next().unwrap_or(false);
    assert!(integer.all(|one| one == first), "records of one job in two arithmetics");
    first
}

/// The tasks of matrices that share records, so many records each.
fn tasks<'a, C, const K: usize>(
    x: &'a C,
    job: [Part<'a>; K],
    records: usize,
    micropanels: usize,
) -> Vec<[Job<'a, 'a, C>; K]> {
    let tasks = job.iter().map(|(rows, ..)| rows.records.div_ceil(records)).max().unwrap_or(0);
    let mut parts = job.map(|(rows, out, groups)| (rows, out.micropanels_mut().chunks_mut(micropanels), groups));
    let task = |task| {
        parts.each_mut().map(|(rows, parts, groups)| {
            let work = Dots { rows, first: task * records, x, groups: groups.part(records, rows.width) };
            (work, parts.next().unwrap_or_default())
        })
    };
    (0..tasks).map(task).collect()
}
