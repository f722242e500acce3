//! What a task of a kernel gets: records, and what they are multiplied with. A task is what one thread takes at a time.

#![forbid(unsafe_code)]

use super::groups::Groups;
use super::lanes::LANES;
use crate::quant::Rows;
use std::ops::Range;

/// Dots of the records from `first` on with all columns; they fill micropanels of a panel.
#[derive(Debug)]
pub struct Dots<'a, Columns> {
    pub rows: &'a Rows<'a>,
    /// A multiple of sixteen.
    pub first: usize,
    pub x: &'a Columns,
    /// Of the task, which has one column in int8 where they do not pass.
    pub groups: Groups<'a>,
}

impl<Columns> Dots<'_, Columns> {
    /// The records of the task's `index`th micropanel.
    #[inline(always)]
    pub fn micropanel(&self, index: usize) -> Range<usize> {
        let first = self.first + index * LANES;
        first..self.rows.records.min(first + LANES)
    }
}

/// What the products of a run are at most, to say what threads keep behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Blocks of a record.
    pub blocks: usize,
    /// Columns that meet records in integers; 0 where none do.
    pub integer: usize,
    /// Columns that meet records in f32.
    pub float: usize,
}

/// Dots with the room they fill, `[micropanels][N][16]`.
pub type Job<'a, 'out, Columns> = (Dots<'a, Columns>, &'out mut [[f32; LANES]]);

/// Calls `dot` with every record of jobs with one column that share records, and with the room for its dot, in the order
/// the records lie in: memory is read from end to end.
#[inline(always)]
pub fn record_by_record<'a, Columns>(
    jobs: &mut [Job<'a, '_, Columns>],
    mut dot: impl FnMut(&mut Dots<'a, Columns>, usize, &mut f32),
) {
    let most = jobs.iter().map(|(_, out)| out.len() * LANES).max().unwrap_or(0);
    for r in 0..most {
        for (work, out) in jobs.iter_mut().filter(|(work, _)| work.first + r < work.rows.records) {
            if let Some(out) = out.as_flattened_mut().get_mut(r) {
                dot(work, work.first + r, out);
            }
        }
    }
}

/// All records times their factors, added to the sums of the blocks from `first` on.
#[derive(Debug)]
pub struct Sums<'a, Factors> {
    pub rows: &'a Rows<'a>,
    /// The task's first block.
    pub first: usize,
    pub factors: &'a Factors,
}

/// Factors as they came.
#[derive(Debug)]
pub struct F32Factors {
    /// N.
    pub columns: usize,
    /// `[records][N]`.
    pub values: Vec<f32>,
}
