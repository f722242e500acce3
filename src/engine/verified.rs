//! Which records were checked against their checksums.

use crate::error::Result;
use crate::prefetch::Want;
use crate::store::{SectionId, Store};
use std::ops::Range;

/// When records are checked against their checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// On a block's first read (the default).
    First,
    /// On every read.
    Always,
    /// Never.
    Never,
}

/// Checks what was read, as the mode asks: `First` remembers a bit for every checksum of the store. A 7B model has 2.2
/// million (270 KiB), one of 70B 14 million (1.7 MiB).
pub struct Verified {
    mode: Verify,
    /// By section.
    checked: Vec<Bits>,
}

impl Verified {
    /// Nothing of a store was checked yet.
    pub fn new(store: &Store, mode: Verify) -> Verified {
        let units = |id: usize| {
            let layout = &store.sections[id].layout;
            layout.records.div_ceil(layout.check)
        };
        let units = |id| if mode == Verify::First { units(id) } else { 0 };
        Verified { mode, checked: (0..store.sections.len()).map(|id| Bits::new(units(id))).collect() }
    }

    /// Checks bytes that were just read for a want: whole records, beginning where a checksum does.
    ///
    /// # Errors
    /// The store's, naming the record that differs.
    pub fn check(&mut self, store: &Store, want: &Want, bytes: &[u8]) -> Result<()> {
        if self.mode == Verify::Never {
            return Ok(());
        }
        let id = SectionId(want.section as u32);
        let section = store.section(id);
        let layout = &section.layout;
        let first = (want.offset - section.begin) as usize / layout.stride;
        let units = first / layout.check..(first + bytes.len() / layout.stride).div_ceil(layout.check);
        let checked = &mut self.checked[want.section];
        if self.mode == Verify::First && checked.has(units.clone()) {
            return Ok(());
        }
        store.check_records(id, first, bytes, self.mode == Verify::Always)?;
        if self.mode == Verify::First {
            checked.add(units);
        }
        Ok(())
    }
}

/// A set of numbers below a bound.
struct Bits(Vec<u64>);

impl Bits {
    fn new(bound: usize) -> Bits {
        Bits(vec![0; bound.div_ceil(64)])
    }

    fn has(&self, range: Range<usize>) -> bool {
        range.into_iter().all(|at| self.0[at / 64] >> (at % 64) & 1 == 1)
    }

    fn add(&mut self, range: Range<usize>) {
        range.into_iter().for_each(|at| self.0[at / 64] |= 1 << (at % 64));
    }
}
