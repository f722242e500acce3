//! Asking for codes before they are wanted, a block's lines at every block: asked for many lines at once, the processor
//! waits for places to keep the requests in.

use super::load::prefetch;
use crate::kernels::columns::STRIP;
use crate::kernels::groups::Known;
use crate::quant::{Record, Rows};
use crate::types::{Level, Plane};

/// A cache line.
pub const LINE: usize = 64;

/// Prefetch distance: how far behind a block lies what is wanted next, in bytes of each plane; wraps where it lies before.
pub type Distance = [usize; 3];

/// From record `from` to record `to`.
#[inline(always)]
pub fn between(rows: &Rows, from: usize, to: usize) -> Distance {
    let mut far = [0; 3];
    for (far, plane) in far.iter_mut().zip(&rows.planes) {
        *far = plane.begin_ahead(to).wrapping_sub(plane.begin_ahead(from));
    }
    far
}

/// From record `r` to that `records` on.
#[inline(always)]
pub fn records(rows: &Rows, r: usize, records: usize) -> Distance {
    between(rows, r, r + records)
}

/// From a block to another of its record.
#[inline(always)]
pub fn blocks(from: usize, to: usize) -> Distance {
    Plane::ALL.map(|plane| (to * plane.block_bytes()).wrapping_sub(from * plane.block_bytes()))
}

/// One distance behind another.
#[inline(always)]
pub fn both(one: Distance, other: Distance) -> Distance {
    std::array::from_fn(|plane| one[plane].wrapping_add(other[plane]))
}

/// Asks for the lines of the block that lies `far` behind block `block`.
#[inline(always)]
pub fn block(level: Level, record: &Record, block: usize, far: Distance) {
    planes(level.planes(), record, block, far);
}

/// The same in some planes.
#[inline(always)]
fn planes(planes: &[Plane], record: &Record, block: usize, far: Distance) {
    for plane in planes {
        let bytes = plane.block_bytes();
        if (block * bytes).is_multiple_of(LINE) {
            prefetch(record.codes[*plane as usize], (block * bytes).wrapping_add(far[*plane as usize]));
        }
    }
}

/// Asks for the scales of the sixteen blocks from `block` on, of the record `far` behind that of `scales`: a line, or parts
/// of two.
#[inline(always)]
pub fn scales(rows: &Rows, scales: &[u8], block: usize, far: Distance) {
    prefetch(scales, block * rows.coding.form.scale_bytes() + far[0]);
}

/// Records between an int8 dot with one column and what is asked for: the lines of a record and a half are in flight.
pub const ONE_COLUMN: usize = 2;

/// Asks for codes in the planes base and mid, or in one of them, and scales of the strip that lies `far` behind the one
/// from block `first` on.
#[inline(always)]
pub fn strip<const BASE: bool, const MID: bool>(rows: &Rows, record: &Record, first: usize, far: Distance) {
    let wanted = &Level::L8.planes()[usize::from(!BASE)..1 + usize::from(MID)];
    for i in 0..STRIP {
        planes(wanted, record, first + i, far);
    }
    scales(rows, record.scales, first, far);
}

/// Asks for the known dots of the record as far behind record `r`.
#[inline(always)]
pub fn known(known: &Known, r: usize) {
    let dots = known.ahead(r + ONE_COLUMN);
    (0..size_of_val(dots)).step_by(LINE).for_each(|at| prefetch(dots, at));
}

/// Lines that are wanted next, asked for in the order they lie in, whatever the order they are computed in: the memory
/// sees one stream.
pub struct Coming<'a> {
    rows: &'a Rows<'a>,
    /// Where the lines of a record begin, in bytes behind the start of its codes.
    first: usize,
    /// Lines of a record in the planes base and mid.
    lines: [usize; 2],
    next: [Next; 2],
}

/// The next line of a plane.
#[derive(Clone, Copy)]
struct Next {
    /// The record behind the line's.
    record: usize,
    /// Its place in the plane's bytes.
    at: usize,
    /// Lines of its record that are left.
    left: usize,
}

impl<'a> Coming<'a> {
    /// Of the records from `record` on.
    pub fn new(rows: &'a Rows<'a>, record: usize, first: usize, lines: [usize; 2]) -> Coming<'a> {
        Coming { rows, first, lines, next: [Next { record, at: 0, left: 0 }; 2] }
    }

    /// Asks for the next `count` lines of base, or of base and mid.
    #[inline(always)]
    pub fn ask<const MID: bool>(&mut self, count: usize) {
        let lines = self.lines.iter().zip(&mut self.next);
        for (view, (lines, next)) in self.rows.planes.iter().zip(lines).take(1 + usize::from(MID)) {
            if next.left == 0 {
                if next.record >= self.rows.records {
                    continue;
                }
                next.at = view.begin_ahead(next.record) + self.first;
                (next.record, next.left) = (next.record + 1, *lines);
            }
            (0..count).for_each(|i| prefetch(view.bytes(), next.at + i * LINE));
            next.at += count * LINE;
            next.left = next.left.saturating_sub(count);
        }
    }
}
