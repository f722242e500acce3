//! Slots and leases: a slot has one writer or many readers (DESIGN 6); a read or copy in flight counts as one.

use super::slab::Slab;
use crate::error::{Error, Result};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Slots begin on pages, so that O_DIRECT can fill them.
pub const PAGE: usize = 4096;
/// Largest slab: what io_uring and CUDA register in one piece.
const PIECE: usize = 1 << 30;
/// Added to the state of a slot while it is written; far above any number of readers.
const WRITER: u32 = 1 << 31;

/// A slot of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

#[derive(Debug)]
struct Slot {
    base: NonNull<u8>,
    len: usize,
    /// Readers, plus `WRITER` while there is a writer.
    state: AtomicU32,
}

// SAFETY: `base` points into a slab owned by the same arena; `state` decides who may go through it.
unsafe impl Send for Slot {}
// SAFETY: as above: shared access goes through `state`.
unsafe impl Sync for Slot {}

/// Page-aligned slabs cut into slots of fixed sizes.
#[derive(Debug)]
pub struct Arena {
    slots: Vec<Slot>,
    /// Keeps the memory of `slots` mapped.
    _slabs: Vec<Slab>,
}

impl Arena {
    /// An arena with one slot per given size; a slot never crosses a slab. Sizes are rounded up to pages.
    pub fn new(sizes: &[usize]) -> Result<Arc<Arena>> {
        let mut arena = Arena { slots: Vec::with_capacity(sizes.len()), _slabs: vec![] };
        let mut at = 0;
        while at < sizes.len() {
            at += arena.add_slab(&sizes[at..])?;
        }
        Ok(Arc::new(arena))
    }

    /// Maps one slab for as many of the next slots as fit a piece (at least one) and says how many those are.
    fn add_slab(&mut self, sizes: &[usize]) -> Result<usize> {
        let rounded = |n: &usize| n.max(&1).next_multiple_of(PAGE);
        let mut len = rounded(&sizes[0]);
        let more = sizes[1..].iter().take_while(|n| {
            let fits = len + rounded(n) <= PIECE;
            len += if fits { rounded(n) } else { 0 };
            fits
        });
        let count = 1 + more.count();
        let slab = Slab::map(len)?;
        let mut offset = 0;
        for size in &sizes[..count] {
            // SAFETY: the offsets of this slab's slots add up to `len`, so the pointer stays inside the mapping.
            let base = unsafe { slab.base().add(offset) };
            self.slots.push(Slot { base, len: *size, state: AtomicU32::new(0) });
            offset += rounded(size);
        }
        self._slabs.push(slab);
        Ok(count)
    }

    fn slot(&self, id: SlotId) -> Result<&Slot> {
        self.slots.get(id.0 as usize).ok_or(Error::Internal("a slot beyond the arena"))
    }

    /// The right to write a slot; refused while anyone reads or writes it.
    pub fn write(self: &Arc<Self>, id: SlotId) -> Result<WriteLease> {
        let slot = self.slot(id)?;
        match slot.state.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(WriteLease { arena: self.clone(), id, len: slot.len }),
            Err(_) => Err(Error::Internal("a slot was to be written while leased")),
        }
    }

    /// The right to read a slot, shared; refused while it is being written.
    pub fn read(self: &Arc<Self>, id: SlotId) -> Result<ReadLease> {
        let slot = self.slot(id)?;
        let enter = |n: u32| if n >= WRITER { None } else { Some(n + 1) };
        match slot.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter) {
            Ok(_) => Ok(ReadLease { arena: self.clone(), id, len: slot.len }),
            Err(_) => Err(Error::Internal("a slot was to be read while written")),
        }
    }

    /// Whether nobody holds a lease on a slot.
    pub fn is_idle(&self, id: SlotId) -> bool {
        self.slot(id).is_ok_and(|s| s.state.load(Ordering::Acquire) == 0)
    }
}

/// Exclusive access to a slot's bytes.
#[derive(Debug)]
pub struct WriteLease {
    arena: Arc<Arena>,
    id: SlotId,
    len: usize,
}

impl WriteLease {
    /// Shortens the lease to the bytes in use.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Turns the right to write into one to read; the slot is never free in between.
    pub fn into_read(self) -> ReadLease {
        let lease = ReadLease { arena: self.arena.clone(), id: self.id, len: self.len };
        // WRITER and one reader: dropping the writer below leaves the reader alone.
        self.state().fetch_add(1, Ordering::Relaxed);
        drop(self);
        lease
    }

    fn state(&self) -> &AtomicU32 {
        &self.arena.slots[self.id.0 as usize].state
    }
}

impl Deref for WriteLease {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let slot = &self.arena.slots[self.id.0 as usize];
        // SAFETY: the slot lies in a slab that `arena` keeps mapped, `len` is at most the slot's, and WRITER in the
        // state keeps everyone else out.
        unsafe { std::slice::from_raw_parts(slot.base.as_ptr(), self.len) }
    }
}

impl DerefMut for WriteLease {
    fn deref_mut(&mut self) -> &mut [u8] {
        let slot = &self.arena.slots[self.id.0 as usize];
        // SAFETY: as in `deref`; `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(slot.base.as_ptr(), self.len) }
    }
}

impl Drop for WriteLease {
    fn drop(&mut self) {
        self.state().fetch_sub(WRITER, Ordering::Release);
    }
}

/// Shared access to a slot's bytes; they do not change while it lives.
#[derive(Debug)]
pub struct ReadLease {
    arena: Arc<Arena>,
    id: SlotId,
    len: usize,
}

impl Deref for ReadLease {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let slot = &self.arena.slots[self.id.0 as usize];
        // SAFETY: the slot lies in a slab that `arena` keeps mapped, `len` is at most the slot's, and a reader's count
        // in the state keeps writers out.
        unsafe { std::slice::from_raw_parts(slot.base.as_ptr(), self.len) }
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        self.arena.slots[self.id.0 as usize].state.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_or_many_readers() {
        let arena = Arena::new(&[10, 5000]).unwrap();
        let mut w = arena.write(SlotId(1)).unwrap();
        assert!(arena.read(SlotId(1)).is_err() && arena.write(SlotId(1)).is_err());
        w[4999] = 7;
        w.truncate(4999);
        let r = w.into_read();
        assert!(arena.write(SlotId(1)).is_err());
        let second = arena.read(SlotId(1)).unwrap();
        assert_eq!((r.len(), second[4999]), (4999, 7));
        drop((r, second));
        assert!(arena.is_idle(SlotId(1)) && arena.write(SlotId(1)).is_ok());
        assert!(arena.is_idle(SlotId(1)));
    }

    #[test]
    fn slots_are_page_aligned_and_do_not_overlap() {
        let arena = Arena::new(&[1, 4097, 64]).unwrap();
        for id in 0..3 {
            arena.write(SlotId(id)).unwrap().fill(id as u8 + 1);
        }
        for id in 0..3 {
            let lease = arena.read(SlotId(id)).unwrap();
            assert_eq!(lease.as_ptr() as usize % PAGE, 0);
            assert!(lease.iter().all(|b| *b == id as u8 + 1));
        }
    }

    #[test]
    fn a_lease_outlives_its_arena_handle() {
        let arena = Arena::new(&[64]).unwrap();
        let mut w = arena.write(SlotId(0)).unwrap();
        drop(arena);
        w.fill(3);
        assert_eq!(w.into_read()[63], 3);
    }
}
