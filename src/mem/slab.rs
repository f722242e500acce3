//! Anonymous page-aligned memory.

use crate::error::{Error, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

/// A mapping of zeroed pages; a page costs memory once it is touched.
#[derive(Debug)]
pub struct Slab {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned by this value alone; access to its bytes is handed out by `Arena`'s leases.
unsafe impl Send for Slab {}
// SAFETY: `&Slab` gives only the base pointer; leases keep writers and readers of a slot apart.
unsafe impl Sync for Slab {}

impl Slab {
    /// Maps `len` bytes (above 0); huge pages are asked for where the kernel gives them on advice.
    pub fn map(len: usize) -> Result<Slab> {
        // SAFETY: a fresh private anonymous mapping at an address the kernel chooses touches no memory of ours.
        let base = unsafe {
            mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE)
        };
        let base = base.map_err(|e| Error::Memory { bytes: len, what: "the weight cache", source: e.into() })?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Error::Internal("mmap returned null"))?;
        // SAFETY: the range is the mapping just made. Advice only: a refusal costs speed, not correctness.
        let _ = unsafe { madvise(base.as_ptr().cast::<c_void>(), len, Advice::LinuxHugepage) };
        Ok(Slab { base, len })
    }

    /// First byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length.
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mapping, and leases hold the arena that owns this slab, so none is left.
        let _ = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
    }
}
