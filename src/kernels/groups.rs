//! Exact dots of groups with the only column: kept from dots at 4 bits for those at 8 bits of the same records.
//!
//! A code of 8 bits is `16 * base + mid`, so the dot of a group is `16 * dot(base) + dot(mid)`, exactly: where the first is
//! kept, 8 bits read the mid plane and the scales. At d = 4096 the kept integers of a record take 144 bytes, its base 2304.

#![forbid(unsafe_code)]

use super::columns::STRIP;
use crate::quant::Rows;
use crate::types::{BLOCK, Level};

/// Dots of the groups of a strip, in order; zeros behind a record's last. At most 64 * 15 * 127 in size, each has 18 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StripDots {
    /// Their lower 16.
    pub low: [i16; STRIP],
    /// Bits 16 and 17, of the first eight groups and of the others.
    pub high: [[u8; 2]; 2],
}

/// Dots of the groups of some records, one group a block: `[records][strips]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupDots {
    strips: usize,
    dots: Vec<StripDots>,
}

/// What becomes of the dots of groups.
#[derive(Debug)]
pub enum Groups<'a> {
    /// Nothing beyond the call.
    Passing,
    /// They are kept, of dots at 4 bits, `[records][strips]`.
    Kept(&'a mut [StripDots]),
    /// Those of base are known, of dots at 8 bits.
    Known(Known<'a>),
}

/// Of the kept dots of a task those of its record `index`.
#[inline(always)]
pub fn kept(of_task: &mut [StripDots], index: usize, strips: usize) -> &mut [StripDots] {
    &mut of_task[index * strips..][..strips]
}

/// Kept dots, and which of them are of a call's records.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    of: &'a GroupDots,
    places: &'a [u32],
}

/// Strips of a record.
fn strips(width: usize) -> usize {
    width.div_ceil(BLOCK * STRIP)
}

impl StripDots {
    const ZERO: StripDots = StripDots { low: [0; STRIP], high: [[0; 2]; 2] };

    /// That of a group.
    #[inline(always)]
    pub fn get(&self, group: usize) -> i32 {
        let bit = |high: [u8; 2]| i32::from(high[group / 8] >> (group % 8) & 1);
        i32::from(self.low[group] as u16) + (bit(self.high[0]) << 16) - (bit(self.high[1]) << 17)
    }

    /// Replaces it.
    #[inline(always)]
    pub fn set(&mut self, group: usize, dot: i32) {
        self.low[group] = dot as i16;
        for (bit, high) in self.high.iter_mut().enumerate() {
            let (of, at) = (&mut high[group / 8], group % 8);
            *of = *of & !(1 << at) | ((dot >> (16 + bit) & 1) as u8) << at;
        }
    }
}

impl GroupDots {
    /// Bytes of a record's.
    pub fn bytes(width: usize) -> usize {
        strips(width) * size_of::<StripDots>()
    }

    /// To keep those of `rows`, in the memory there is.
    pub fn keep(&mut self, rows: &Rows) -> Groups<'_> {
        self.strips = strips(rows.width);
        self.dots.resize(rows.records * self.strips, StripDots::ZERO);
        Groups::Kept(&mut self.dots)
    }

    /// Those at `places`, in that order.
    ///
    /// # Panics
    /// At a place behind the last record.
    pub fn at<'a>(&'a self, places: &'a [u32]) -> Groups<'a> {
        let have = self.dots.len() / self.strips.max(1);
        assert!(places.iter().all(|place| (*place as usize) < have), "a place behind {have} kept records");
        Groups::Known(Known { of: self, places })
    }
}

impl<'a> Groups<'a> {
    /// Whether they are for these records.
    pub fn fit(&self, rows: &Rows) -> bool {
        let strips = strips(rows.width);
        let (level, fits) = match self {
            Groups::Passing => return true,
            Groups::Kept(kept) => (Level::L4, kept.len() == rows.records * strips),
            Groups::Known(Known { of, places }) => (Level::L8, places.len() == rows.records && of.strips == strips),
        };
        fits && rows.level == level && rows.coding.group == BLOCK
    }

    /// Whether nothing becomes of them.
    pub fn pass(&self) -> bool {
        matches!(self, Groups::Passing)
    }

    /// Those of the next task, of so many records.
    pub fn part(&mut self, records: usize, width: usize) -> Groups<'a> {
        match self {
            Groups::Passing => Groups::Passing,
            Groups::Kept(all) => {
                let all = std::mem::take(all);
                let (part, rest) = all.split_at_mut(all.len().min(records * strips(width)));
                *self = Groups::Kept(rest);
                Groups::Kept(part)
            }
            Groups::Known(known) => Groups::Known(*known),
        }
    }
}

impl<'a> Known<'a> {
    /// The same, to ask memory for them ahead of use: behind the last record those of the last.
    #[inline(always)]
    pub fn ahead(&self, r: usize) -> &'a [StripDots] {
        self.record(r.min(self.places.len() - 1))
    }

    /// Those of record `r` of the call.
    #[inline(always)]
    pub fn record(&self, r: usize) -> &'a [StripDots] {
        &self.of.dots[self.places[r] as usize * self.of.strips..][..self.of.strips]
    }
}
