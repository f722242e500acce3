//! Views of stored records: where the planes of one matrix lie inside blocks of sections.

use crate::config::Coding;
use crate::types::{BLOCK, Level, Plane};

/// One plane of one matrix for a run of records: `offset` bytes into each `stride`-long record of `bytes`.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    /// Whole records of one section.
    pub bytes: &'a [u8],
    /// Bytes from record to record.
    pub stride: usize,
    /// Where this matrix and plane begin in a record.
    pub offset: usize,
}

/// A run of records of one matrix at a level: `columns[p]` for every plane the level reads.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    /// How the weights are coded.
    pub coding: Coding,
    /// What is read of the codes.
    pub level: Level,
    /// Weights per record.
    pub width: usize,
    /// Records in the run.
    pub count: usize,
    /// Planes, coarsest first; as many as the level has.
    pub columns: Vec<Column<'a>>,
}

/// The bytes of one record at a level; planes above the level are empty.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Codes of base, mid, low.
    pub codes: [&'a [u8]; 3],
    /// Scales of all groups.
    pub scales: &'a [u8],
}

impl<'a> Rows<'a> {
    /// 64-weight blocks per record.
    #[inline]
    pub fn blocks(&self) -> usize {
        self.width.div_ceil(BLOCK)
    }

    /// The bytes of record `r` of the run.
    #[inline]
    pub fn record(&self, r: usize) -> Record<'a> {
        let mut record = Record { codes: [&[]; 3], scales: &[] };
        for (plane, column) in Plane::ALL.into_iter().zip(&self.columns) {
            let at = r * column.stride + column.offset;
            let codes = self.blocks() * plane.block_bytes();
            record.codes[plane as usize] = &column.bytes[at..at + codes];
            if plane == Plane::Base {
                record.scales = &column.bytes[at + codes..at + codes + self.coding.scale_bytes(self.width)];
            }
        }
        record
    }

    /// The scales of record `r` of the run.
    #[inline(always)]
    pub fn scales(&self, r: usize) -> &'a [u8] {
        let base = &self.columns[0];
        let at = r * base.stride + base.offset + self.blocks() * Plane::Base.block_bytes();
        &base.bytes[at..at + self.coding.scale_bytes(self.width)]
    }

    /// The codes of record `r` of the run in one plane.
    #[inline(always)]
    pub fn codes(&self, plane: Plane, r: usize) -> &'a [u8] {
        let column = &self.columns[plane as usize];
        let at = r * column.stride + column.offset;
        &column.bytes[at..at + self.blocks() * plane.block_bytes()]
    }

    /// Records `from..to` of the run.
    pub fn slice(&self, from: usize, to: usize) -> Rows<'a> {
        let columns =
            self.columns.iter().map(|c| Column { bytes: &c.bytes[from * c.stride..to * c.stride], ..*c }).collect();
        Rows { count: to - from, columns, ..*self }
    }
}
