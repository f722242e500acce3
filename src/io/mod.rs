//! Reading parts of files into leased slots. An operation owns its buffers until it is done; a dropped engine waits for
//! what the system still works on.

mod backlog;
mod faults;
pub mod faulty;
mod handle;
mod home;
mod open;
mod psync;
#[cfg(test)]
mod tests;
#[allow(unsafe_code)]
mod uring;
mod window;

pub use faults::Faults;
pub use open::{Choice, Opened, open};
#[cfg(test)]
pub use psync::Psync;
pub use psync::THREADS;
pub use uring::DEPTH;

use crate::error::Result;
use crate::mem::WriteLease;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A file that can be read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// For messages.
    pub path: PathBuf,
    /// The handle.
    pub file: Arc<File>,
}

/// Offsets, lengths and buffers of reads are multiples of this, so that every one can go past the page cache; store
/// files end on such a multiple (docs/format.md).
pub const ALIGN: usize = 4096;

/// A read to be done: fill `buffers`, one after the other, with consecutive bytes from `offset` of file `file`.
#[derive(Debug)]
pub struct Read {
    /// Index into the engine's sources.
    pub file: usize,
    /// First byte.
    pub offset: u64,
    /// Where it goes; their lengths are the read's.
    pub buffers: Vec<WriteLease>,
    /// The caller's mark, given back with the result.
    pub token: u64,
    /// Whether it goes before those that are not and wait too: somebody waits for it already.
    pub urgent: bool,
}

/// A read that ended: the buffers are full, or the error says why not.
#[derive(Debug)]
pub struct Done {
    /// The mark of the read.
    pub token: u64,
    /// The buffers, as they were given.
    pub result: Result<Vec<WriteLease>>,
}

/// No read ended in the time that was given.
#[derive(Debug)]
pub struct Late;

/// An engine of reads. Engines differ in speed, never in what arrives: one test body holds them all to it.
///
/// Reads may end in any order. A result is either the whole length or an error: short reads are continued inside.
pub trait Reader: Send {
    /// Takes a batch of reads and begins with them.
    fn submit(&mut self, batch: Vec<Read>);
    /// One read that has ended, without waiting for it.
    fn poll(&mut self) -> Option<Done>;
    /// Waits for one read to end; none when nothing is in flight.
    fn wait(&mut self) -> Option<Done>;
    /// The same, but late when that takes longer, or a signal came.
    fn wait_for(&mut self, limit: Duration) -> Result<Option<Done>, Late>;
    /// The engine's name: `psync`, `uring`.
    fn name(&self) -> &'static str;
}

impl<R: Reader + ?Sized> Reader for Box<R> {
    fn submit(&mut self, batch: Vec<Read>) {
        (**self).submit(batch);
    }

    fn poll(&mut self) -> Option<Done> {
        (**self).poll()
    }

    fn wait(&mut self) -> Option<Done> {
        (**self).wait()
    }

    fn wait_for(&mut self, limit: Duration) -> Result<Option<Done>, Late> {
        (**self).wait_for(limit)
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }
}
