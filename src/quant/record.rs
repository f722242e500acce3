//! Views of stored records: where the planes of one matrix lie inside blocks of sections.

use crate::config::Coding;
use crate::types::{BLOCK, Level, Plane};

/// Which of the records that lie one behind the other those of a call are.
#[derive(Clone, Copy, Debug)]
pub enum Places<'a> {
    /// Neighbours, from this one on.
    Run(usize),
    /// Each where it is listed, in the call's order.
    Listed(&'a [u32]),
}

/// One plane of one matrix for the records of a call.
#[derive(Clone, Copy, Debug)]
pub struct PlaneView<'a> {
    /// Whole records of one section.
    pub bytes: &'a [u8],
    /// Those of the call among them.
    pub places: Places<'a>,
    /// Bytes from place to place.
    pub stride: usize,
    /// Where this matrix and plane begin in a record.
    pub offset: usize,
}

/// The records of a call: of one matrix, at one level.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// How the weights are coded.
    pub coding: Coding,
    /// What is read of the codes.
    pub level: Level,
    /// Weights per record.
    pub width: usize,
    /// Records.
    pub records: usize,
    /// Coarsest first; those above the level are empty.
    pub planes: [PlaneView<'a>; 3],
}

/// The bytes of one record at a level; planes above the level are empty.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Codes of base, mid, low.
    pub codes: [&'a [u8]; 3],
    /// Scales of all groups.
    pub scales: &'a [u8],
}

impl<'a> PlaneView<'a> {
    /// No records.
    pub const EMPTY: PlaneView<'static> = PlaneView::of(&[], 0, 0);

    /// All records of `bytes`.
    pub const fn of(bytes: &'a [u8], stride: usize, offset: usize) -> PlaneView<'a> {
        PlaneView { bytes, places: Places::Run(0), stride, offset }
    }

    /// The byte where record `r` of the call begins. Behind the last that is listed it is that one's: memory is asked for
    /// records ahead of use, whether there are any or not.
    #[inline(always)]
    pub fn begin(&self, r: usize) -> usize {
        let place = match self.places {
            Places::Run(first) => first + r,
            Places::Listed(places) => places.get(r).or(places.last()).map_or(0, |place| *place as usize),
        };
        place * self.stride + self.offset
    }

    /// Records `from..to` of the call.
    fn slice(&self, from: usize, to: usize) -> PlaneView<'a> {
        let places = match self.places {
            Places::Run(first) => Places::Run(first + from),
            Places::Listed(places) => Places::Listed(&places[from..to]),
        };
        PlaneView { places, ..*self }
    }
}

impl<'a> Rows<'a> {
    /// 64-weight blocks per record.
    #[inline]
    pub fn blocks(&self) -> usize {
        self.width.div_ceil(BLOCK)
    }

    /// The bytes of record `r`.
    #[inline]
    pub fn record(&self, r: usize) -> Record<'a> {
        let mut record = Record { codes: [&[]; 3], scales: self.scales(r) };
        for plane in self.level.planes() {
            record.codes[*plane as usize] = self.codes(*plane, r);
        }
        record
    }

    /// The scales of record `r`.
    #[inline(always)]
    pub fn scales(&self, r: usize) -> &'a [u8] {
        let base = &self.planes[Plane::Base as usize];
        let at = base.begin(r) + self.blocks() * Plane::Base.block_bytes();
        &base.bytes[at..at + self.coding.scale_bytes(self.width)]
    }

    /// The codes of record `r` in one plane.
    #[inline(always)]
    pub fn codes(&self, plane: Plane, r: usize) -> &'a [u8] {
        let view = &self.planes[plane as usize];
        let at = view.begin(r);
        &view.bytes[at..at + self.blocks() * plane.block_bytes()]
    }

    /// Records `from..to`.
    pub fn slice(&self, from: usize, to: usize) -> Rows<'a> {
        Rows { records: to - from, planes: self.planes.map(|plane| plane.slice(from, to)), ..*self }
    }
}
