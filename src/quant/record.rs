//! Views of stored records: where the planes of one matrix lie inside blocks of sections.

use crate::config::Coding;
use crate::types::{BLOCK, Level, Plane};

/// Which of the records that lie one behind the other those of a call are.
#[derive(Clone, Copy, Debug)]
enum Places<'a> {
    /// Neighbours, from this one on.
    Run(usize),
    /// Each where it is listed, in the call's order, counted from the first.
    Listed(usize, &'a [u32]),
}

/// One plane of one matrix for the records of a call.
#[derive(Clone, Copy, Debug)]
pub struct PlaneView<'a> {
    /// Whole records of one section.
    bytes: &'a [u8],
    /// Those of the call among them.
    places: Places<'a>,
    /// Bytes from place to place.
    stride: usize,
    /// Where this matrix and plane begin in a record.
    offset: usize,
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

    /// All records of `bytes`, which is whole records of `stride` bytes.
    ///
    /// # Panics
    /// Where it is not, or the plane begins behind a record's end.
    pub const fn of(bytes: &'a [u8], stride: usize, offset: usize) -> PlaneView<'a> {
        assert!(stride > 0 || bytes.is_empty(), "records of no bytes");
        assert!(stride == 0 || bytes.len().is_multiple_of(stride), "bytes that are not whole records");
        assert!(offset <= stride, "a plane that begins behind its record");
        PlaneView { bytes, places: Places::Run(0), stride, offset }
    }

    /// Of these records, those at `places`, in that order.
    ///
    /// # Panics
    /// At a place behind the last record, and where these are listed themselves.
    pub fn at(self, places: &'a [u32]) -> PlaneView<'a> {
        let Places::Run(first) = self.places else { panic!("places among records that are listed themselves") };
        let have = self.bytes.len().checked_div(self.stride).unwrap_or(0).saturating_sub(first);
        assert!(places.iter().all(|place| (*place as usize) < have), "a place that is not of the {have} records");
        PlaneView { places: Places::Listed(first, places), ..self }
    }

    /// The records that the places count.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes from place to place.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The byte where record `r` of the call begins.
    ///
    /// # Panics
    /// Where places are listed, and not so many.
    #[inline(always)]
    pub fn begin(&self, r: usize) -> usize {
        let place = match self.places {
            Places::Run(first) => first + r,
            Places::Listed(first, places) => first + places[r] as usize,
        };
        place * self.stride + self.offset
    }

    /// As [`Self::begin`], to ask memory for records ahead of use, whether there are any or not: behind the last that is
    /// listed it is that one's. Nothing is computed of what begins there.
    #[inline(always)]
    pub fn begin_ahead(&self, r: usize) -> usize {
        match self.places {
            Places::Listed(_, []) => 0,
            Places::Listed(_, places) => self.begin(r.min(places.len() - 1)),
            Places::Run(_) => self.begin(r),
        }
    }

    /// Records `from..to` of the call.
    fn slice(&self, from: usize, to: usize) -> PlaneView<'a> {
        let places = match self.places {
            Places::Run(first) => Places::Run(first + from),
            Places::Listed(first, places) => Places::Listed(first, &places[from..to]),
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
    ///
    /// # Panics
    /// Where they are not all of this call.
    pub fn slice(&self, from: usize, to: usize) -> Rows<'a> {
        assert!(from <= to && to <= self.records, "records {from}..{to} of {}", self.records);
        Rows { records: to - from, planes: self.planes.map(|plane| plane.slice(from, to)), ..*self }
    }

    /// Of these records, those at `places`, in that order: in all planes that the level reads.
    ///
    /// # Panics
    /// At a place behind the last record, and where these are listed themselves.
    pub fn at(&self, places: &'a [u32]) -> Rows<'a> {
        let have = self.records;
        assert!(places.iter().all(|place| (*place as usize) < have), "a place that is not of the {have} records");
        let mut rows = Rows { records: places.len(), ..*self };
        rows.planes.iter_mut().take(self.level.plane_count()).for_each(|plane| *plane = plane.at(places));
        rows
    }

    /// The same records at a level that reads as many of these planes or fewer.
    ///
    /// # Panics
    /// Where it reads more.
    pub fn to_level(&self, level: Level) -> Rows<'a> {
        assert!(level <= self.level, "{} bits of records of {}", level.bits(), self.level.bits());
        let mut rows = Rows { level, ..*self };
        rows.planes[level.plane_count()..].fill(PlaneView::EMPTY);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Form;
    use std::panic::catch_unwind;

    const FIVE: PlaneView = PlaneView::of(&[0; 50], 10, 3);

    fn panics<T>(what: impl FnOnce() -> T + std::panic::UnwindSafe) -> bool {
        catch_unwind(what).is_err()
    }

    fn rows<'a>(view: PlaneView<'a>, records: usize) -> Rows<'a> {
        let coding = Coding { form: Form::Symmetric, group: 64, cells: [1, 1, 1] };
        Rows { coding, level: Level::L8, width: 2, records, planes: [view, view, PlaneView::EMPTY] }
    }

    #[test]
    fn records_begin_where_they_are_listed_and_nowhere_else() {
        let listed = FIVE.at(&[4, 0]);
        assert_eq!([listed.begin(0), listed.begin(1)], [43, 3]);
        assert!(panics(|| listed.begin(2)));
        assert_eq!([FIVE.begin(0), FIVE.begin(4)], [3, 43]);
    }

    #[test]
    fn asked_for_ahead_the_last_that_is_listed_stays_the_last() {
        assert_eq!([0, 1, 2, 1000, usize::MAX].map(|r| FIVE.at(&[4, 0]).begin_ahead(r)), [43, 3, 3, 3, 3]);
        assert_eq!([0, 9].map(|r| FIVE.at(&[]).begin_ahead(r)), [0, 0]);
        assert_eq!([0, 9].map(|r| FIVE.begin_ahead(r)), [3, 93]);
    }

    #[test]
    fn views_of_what_is_not_there_are_refused() {
        assert!(panics(|| FIVE.at(&[0, 5])) && panics(|| PlaneView::EMPTY.at(&[0])));
        assert!(panics(|| PlaneView::of(&[0; 51], 10, 3)) && panics(|| PlaneView::of(&[0; 50], 10, 11)));
        assert!(panics(|| PlaneView::of(&[0; 50], 0, 0)));
    }

    #[test]
    fn listed_records_are_counted_from_the_first_of_those_they_are_of() {
        let part = rows(FIVE, 5).slice(1, 4);
        let some = part.at(&[2, 0]);
        assert_eq!((some.records, some.planes[1].begin(0), some.planes[1].begin(1)), (2, 33, 13));
        assert_eq!(some.slice(1, 2).planes[0].begin(0), 13);
        assert_eq!(rows(FIVE, 5).at(&[]).records, 0);
        assert!(panics(|| part.at(&[3])), "a record behind those of the call");
        assert!(panics(|| some.at(&[0])) && panics(|| FIVE.at(&[1]).at(&[0])), "places of places");
    }

    #[test]
    fn a_lower_level_reads_the_same_records_in_fewer_planes() {
        let all = rows(FIVE, 5).at(&[4, 1]);
        let base = all.to_level(Level::L4);
        assert_eq!((base.level, base.records, base.planes[0].begin(1)), (Level::L4, 2, 13));
        assert!(base.planes[1].bytes().is_empty());
        assert_eq!(all.to_level(Level::L8).planes[1].begin(0), 43);
        assert!(panics(|| all.to_level(Level::L16)), "a plane that is not there");
    }

    #[test]
    fn parts_are_of_the_records_of_the_call() {
        for view in [FIVE, FIVE.at(&[3, 1, 2, 4])] {
            let all = rows(view, 3);
            let part = all.slice(1, 3);
            assert_eq!((part.records, part.planes[0].begin(1)), (2, view.begin(2)));
            assert_eq!(part.slice(1, 2).planes[0].begin(0), view.begin(2));
            assert_eq!(all.slice(3, 3).records, 0);
            assert!(panics(|| all.slice(1, 4)), "more than the call has, of {view:?}");
            assert!(panics(|| all.slice(2, 1)), "less than none, of {view:?}");
        }
    }
}
