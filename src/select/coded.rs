//! A matrix of f32 as records in memory, for the kernels that read stores.

use crate::config::{Coding, Form};
use crate::error::{Error, Result};
use crate::mem::{Arena, ReadLease, SlotId};
use crate::quant::{PlaneView, Rows, encode_record};
use crate::types::{BLOCK, Level, Plane};

/// The form that takes the fewest bits: 4.25 or 8.25 a weight.
const CODING: Coding = Coding { form: Form::Symmetric, group: BLOCK, cells: [1; 3] };

/// Records plane by plane, each at a multiple of 64 bytes. In a slab of [`crate::mem`], though they are never evicted:
/// it has huge pages, and they are read from end to end for every token.
#[derive(Debug)]
pub struct Coded {
    bytes: ReadLease,
    level: Level,
    width: usize,
    records: usize,
}

impl Coded {
    /// Codes `[records][width]`.
    ///
    /// # Errors
    /// `Error::Usage` naming `what` and the record, for weights that are not finite or beyond an f16 scale;
    /// `Error::Memory`.
    pub fn new(what: &str, values: &[f32], width: usize, level: Level) -> Result<Coded> {
        let records = values.len() / width;
        let arena = Arena::new(&[&[records * strides(width, level).sum::<usize>()]])?;
        let mut lease = arena.write(SlotId(0))?;
        for (r, values) in values.chunks_exact(width).enumerate() {
            let coded = encode_record(&CODING, values, &mut planes_of(&mut lease, r, records, width, level));
            coded.map_err(|e| Error::usage(format!("{what}, row {r}, columns from {}: {}", e.group * BLOCK, e.why)))?;
        }
        drop(lease);
        Ok(Coded { bytes: arena.read(SlotId(0))?, level, width, records })
    }

    /// Its records.
    pub fn rows(&self) -> Rows<'_> {
        let (mut planes, mut rest) = ([PlaneView::EMPTY; 3], &self.bytes[..]);
        for (plane, stride) in planes.iter_mut().zip(strides(self.width, self.level)) {
            let (section, behind) = rest.split_at(self.records * stride);
            (*plane, rest) = (PlaneView::of(section, stride, 0), behind);
        }
        Rows { coding: CODING, level: self.level, width: self.width, records: self.records, planes }
    }

    /// Records.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Weights of a record.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The level it is coded at.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Bytes that a product with it reads, padding left out.
    pub fn read_bytes(&self) -> u64 {
        let record = |plane: &Plane| CODING.plane_bytes(*plane, self.width) as u64;
        self.records as u64 * self.level.planes().iter().map(record).sum::<u64>()
    }
}

/// Bytes from record to record, by plane.
fn strides(width: usize, level: Level) -> impl Iterator<Item = usize> {
    level.planes().iter().map(move |plane| CODING.plane_bytes(*plane, width).next_multiple_of(BLOCK))
}

/// The parts of record `r`.
fn planes_of(bytes: &mut [u8], r: usize, records: usize, width: usize, level: Level) -> Vec<&mut [u8]> {
    let mut rest = bytes;
    let mut part = |(plane, stride): (&Plane, usize)| {
        let (section, behind) = std::mem::take(&mut rest).split_at_mut(records * stride);
        rest = behind;
        &mut section[r * stride..][..CODING.plane_bytes(*plane, width)]
    };
    level.planes().iter().zip(strides(width, level)).map(&mut part).collect()
}
