//! Slots and leases: a slot has one writer or many readers (docs/design.md, 6); a read or copy in flight counts as one.

use super::slab::Slab;
use crate::error::{Error, Result};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Slots begin on pages, so that O_DIRECT can fill them.
pub const PAGE: usize = 4096;
/// Largest slab: what io_uring and CUDA register in one piece.
pub const PIECE: usize = 1 << 30;
/// Added to the state of a slot while it is written; far above any number of readers.
const WRITER: u32 = 1 << 31;

/// A slot of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

/// Slots that lie side by side and are leased as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first slot.
    pub first: SlotId,
    /// Slots; at least one.
    pub count: u32,
}

impl From<SlotId> for Run {
    fn from(first: SlotId) -> Run {
        Run { first, count: 1 }
    }
}

#[derive(Debug)]
struct Slot {
    base: NonNull<u8>,
    /// Whole pages.
    len: usize,
    /// Slab it lies in.
    piece: usize,
    /// Readers, plus `WRITER` while there is a writer.
    state: AtomicU32,
    /// Whether somebody had the right to write it: before that its pages may not exist.
    used: AtomicBool,
}

// SAFETY: `base` points into a slab owned by the same arena; `state` decides who may go through it.
unsafe impl Send for Slot {}
// SAFETY: as above: shared access goes through `state`.
unsafe impl Sync for Slot {}

impl Slot {
    fn enter_write(&self) -> bool {
        self.state.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn enter_read(&self) -> bool {
        let enter = |n: u32| if n >= WRITER { None } else { Some(n + 1) };
        self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_ok()
    }

    fn leave(&self, share: u32) {
        if share > 1 {
            self.used.store(true, Ordering::Relaxed);
        }
        self.state.fetch_sub(share, Ordering::Release);
    }
}

/// Page-aligned slabs cut into slots of fixed sizes.
#[derive(Debug)]
pub struct Arena {
    slots: Vec<Slot>,
    /// Keeps the memory of `slots` mapped.
    slabs: Vec<Slab>,
}

impl Arena {
    /// An arena with one slot per given size, rounded up to pages, group after group. A group begins a slab, which
    /// is cut where it would exceed 1 GiB; slots of a slab lie side by side.
    pub fn new(groups: &[&[usize]]) -> Result<Arc<Arena>> {
        let mut arena = Arena { slots: vec![], slabs: vec![] };
        for sizes in groups {
            let mut at = 0;
            while at < sizes.len() {
                at += arena.add_slab(&sizes[at..])?;
            }
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
            let len = rounded(size);
            let (state, used) = (AtomicU32::new(0), AtomicBool::new(false));
            self.slots.push(Slot { base, len, piece: self.slabs.len(), state, used });
            offset += len;
        }
        self.slabs.push(slab);
        Ok(count)
    }

    /// Base and length of every slab; they stay mapped while the arena or a lease lives.
    pub fn pieces(&self) -> Vec<(NonNull<u8>, usize)> {
        self.slabs.iter().map(|slab| (slab.base(), slab.len())).collect()
    }

    /// The slots of a run, which must lie side by side.
    fn slots(&self, run: Run) -> Result<&[Slot]> {
        let (first, count) = (run.first.0 as usize, run.count as usize);
        let slots = first.checked_add(count).and_then(|end| self.slots.get(first..end));
        let adjacent = slots.filter(|s| !s.is_empty() && s[0].piece == s[count - 1].piece);
        adjacent.ok_or(Error::Internal("a run beyond the arena or across slabs"))
    }

    /// The right to write a run; refused while anyone reads or writes part of it.
    pub fn write(self: &Arc<Self>, run: impl Into<Run>) -> Result<WriteLease> {
        Ok(WriteLease(self.enter(run.into(), WRITER, Slot::enter_write, "a slot was to be written while leased")?))
    }

    /// The right to read a run, shared; refused while part of it is being written.
    pub fn read(self: &Arc<Self>, run: impl Into<Run>) -> Result<ReadLease> {
        Ok(ReadLease(self.enter(run.into(), 1, Slot::enter_read, "a slot was to be read while written")?))
    }

    fn enter(self: &Arc<Self>, run: Run, share: u32, enter: fn(&Slot) -> bool, refusal: &'static str) -> Result<Lease> {
        let slots = self.slots(run)?;
        if let Some(refused) = slots.iter().position(|slot| !enter(slot)) {
            slots[..refused].iter().for_each(|slot| slot.leave(share));
            return Err(Error::Internal(refusal));
        }
        let len = slots.iter().map(|slot| slot.len).sum();
        Ok(Lease { arena: self.clone(), run, len, share })
    }

    /// Whether nobody holds a lease on any slot of a run.
    pub fn is_idle(&self, run: impl Into<Run>) -> bool {
        self.slots(run.into()).is_ok_and(|slots| slots.iter().all(|s| s.state.load(Ordering::Acquire) == 0))
    }
}

/// A share in every slot of a run.
#[derive(Debug)]
struct Lease {
    arena: Arc<Arena>,
    run: Run,
    len: usize,
    /// What it added to the state of each slot.
    share: u32,
}

impl Lease {
    fn slots(&self) -> &[Slot] {
        &self.arena.slots[self.run.first.0 as usize..][..self.run.count as usize]
    }

    fn base(&self) -> NonNull<u8> {
        self.slots()[0].base
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.slots().iter().for_each(|slot| slot.leave(self.share));
    }
}

/// Exclusive access to the bytes of a run.
#[derive(Debug)]
pub struct WriteLease(Lease);

impl WriteLease {
    /// Shortens the lease to the bytes in use.
    pub fn truncate(&mut self, len: usize) {
        self.0.len = self.0.len.min(len);
    }

    /// Which slab of the arena the bytes lie in.
    pub fn piece(&self) -> usize {
        self.0.slots()[0].piece
    }

    /// Whether this is the first lease to write some part of it: its pages are yet to be made.
    pub fn is_fresh(&self) -> bool {
        self.0.slots().iter().any(|slot| !slot.used.load(Ordering::Relaxed))
    }

    /// Turns the right to write into one to read; the slots are never free in between.
    pub fn into_read(self) -> ReadLease {
        let mut lease = self.0;
        lease.slots().iter().for_each(|slot| slot.leave(WRITER - 1));
        lease.share = 1;
        ReadLease(lease)
    }
}

impl Deref for WriteLease {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the slots lie side by side in a slab that the lease's arena keeps mapped, `len` is at most what they
        // hold, and WRITER in their states keeps everyone else out.
        unsafe { std::slice::from_raw_parts(self.0.base().as_ptr(), self.0.len) }
    }
}

impl DerefMut for WriteLease {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.0.base().as_ptr(), self.0.len) }
    }
}

/// Shared access to the bytes of a run; they do not change while it lives.
#[derive(Debug)]
pub struct ReadLease(Lease);

impl Deref for ReadLease {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the slots lie side by side in a slab that the lease's arena keeps mapped, `len` is at most what they
        // hold, and a reader's count in their states keeps writers out.
        unsafe { std::slice::from_raw_parts(self.0.base().as_ptr(), self.0.len) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_or_many_readers() {
        let arena = Arena::new(&[&[10, 5000]]).unwrap();
        let mut w = arena.write(SlotId(1)).unwrap();
        assert!(w.is_fresh() && arena.read(SlotId(1)).is_err() && arena.write(SlotId(1)).is_err());
        assert_eq!(w.len(), 8192);
        w[4999] = 7;
        w.truncate(5000);
        let r = w.into_read();
        assert!(arena.write(SlotId(1)).is_err());
        let second = arena.read(SlotId(1)).unwrap();
        assert_eq!((r.len(), second[4999]), (5000, 7));
        drop((r, second));
        assert!(arena.is_idle(SlotId(1)) && !arena.write(SlotId(1)).unwrap().is_fresh());
        assert!(arena.is_idle(SlotId(1)) && arena.write(SlotId(0)).unwrap().is_fresh());
        let both = Run { first: SlotId(0), count: 2 };
        assert!(!arena.write(both).unwrap().is_fresh(), "what was leased and let go may have pages");
    }

    #[test]
    fn a_run_is_one_stretch_of_bytes_and_excludes_every_overlap() {
        let arena = Arena::new(&[&[PAGE; 8], &[PAGE]]).unwrap();
        let run = |first, count| Run { first: SlotId(first), count };
        let mut w = arena.write(run(2, 3)).unwrap();
        w.fill(9);
        assert_eq!((w.len(), w.piece()), (3 * PAGE, 0));
        for (first, count) in [(0, 3), (4, 2), (3, 1), (1, 6)] {
            assert!(arena.write(run(first, count)).is_err() && arena.read(run(first, count)).is_err());
        }
        assert!(arena.is_idle(run(0, 2)) && arena.is_idle(run(5, 3)), "a refused lease leaves nothing behind");
        let r = w.into_read();
        assert!(arena.read(run(4, 1)).unwrap().iter().all(|b| *b == 9));
        assert!(arena.write(run(4, 1)).is_err());
        drop(r);
        assert!(arena.write(run(0, 8)).is_ok());
        assert!(arena.write(run(7, 2)).is_err(), "slot 8 lies in another slab");
        assert!(
            arena.write(run(8, 2)).is_err() && arena.write(run(0, 0)).is_err() && arena.read(run(u32::MAX, 2)).is_err()
        );
    }

    #[test]
    fn slots_are_page_aligned_and_do_not_overlap() {
        let arena = Arena::new(&[&[1], &[4097, 64]]).unwrap();
        assert_eq!(arena.pieces().iter().map(|p| p.1).collect::<Vec<_>>(), [4096, 3 * 4096]);
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
        let arena = Arena::new(&[&[64]]).unwrap();
        let mut w = arena.write(SlotId(0)).unwrap();
        drop(arena);
        w.fill(3);
        assert_eq!(w.into_read()[63], 3);
    }
}
