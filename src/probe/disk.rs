//! Rates of reading a directory's files as the engine reads them.

use super::scratch;
use super::walk::Walk;
use crate::error::{Error, Result};
use crate::io::{self, Choice, Done, Opened, Read, Source};
use crate::mem::{Arena, SlotId, WriteLease};
use rustix::fs::{Advice, AtFlags, StatxFlags, fadvise, statx};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The largest block that can be measured.
pub const LARGEST: usize = 1 << 20;
/// The most reads in flight: as many as the engine has at once.
pub const DEPTH: usize = io::DEPTH;
/// The most bytes in flight: as many as the engine reads ahead.
const IN_FLIGHT: usize = 32 << 20;

/// What the kernel says O_DIRECT needs (statx(2)); zeros where it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of buffers, in bytes.
    pub memory: u32,
    /// Of offsets and lengths, in bytes.
    pub offset: u32,
}

/// Files and the engine that reads them.
pub struct Disk {
    sources: Vec<Source>,
    sizes: Vec<u64>,
    arena: Arc<Arena>,
    opened: Opened,
    /// Where the next measurement begins: behind the last one, and elsewhere in every run, in blocks that no cache of the
    /// disk has seen lately.
    start: u64,
}

impl Disk {
    /// Writes a nameless file of up to `bytes` into `directory`, for `limit` at most.
    ///
    /// # Errors
    /// `Error::Io` if not a MiB of it could be written.
    pub fn scratch(directory: &Path, bytes: u64, limit: Duration, choice: Choice) -> Result<Disk> {
        let arena = arena()?;
        let (file, size) = scratch::make(directory, bytes, limit, &mut arena.write(SlotId(0))?)?;
        Disk::new(arena, vec![Source { path: directory.into(), file: Arc::new(file) }], vec![size], choice)
    }

    /// Takes files that are there already.
    ///
    /// # Errors
    /// `Error::Io` naming one that cannot be opened.
    pub fn files(paths: &[PathBuf], choice: Choice) -> Result<Disk> {
        let mut sources = Vec::new();
        let mut sizes = Vec::new();
        for path in paths {
            let file = File::open(path).map_err(|e| Error::io("opening", path, e))?;
            sizes.push(file.metadata().map_err(|e| Error::io("reading", path, e))?.len());
            sources.push(Source { path: path.clone(), file: Arc::new(file) });
        }
        Disk::new(arena()?, sources, sizes, choice)
    }

    fn new(arena: Arc<Arena>, sources: Vec<Source>, sizes: Vec<u64>, choice: Choice) -> Result<Disk> {
        let opened = io::open(choice, sources.clone(), &arena)?;
        let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::from(d.subsec_micros()));
        Ok(Disk { sources, sizes, arena, opened, start })
    }

    /// Reads blocks of `bytes`, `depth` at a time and far apart, for `limit`: GB a second, none if no file holds a block.
    ///
    /// # Errors
    /// `Error::Usage` beyond [`LARGEST`], [`DEPTH`] or 32 MiB in flight; what a read ends with.
    pub fn rate(&mut self, bytes: usize, depth: usize, limit: Duration) -> Result<Option<f64>> {
        let possible = (io::ALIGN..=LARGEST).contains(&bytes) && bytes.is_multiple_of(io::ALIGN);
        if !possible || !(1..=DEPTH).contains(&depth) || bytes * depth > IN_FLIGHT {
            let rule = format!("multiples of {} up to {LARGEST}, {DEPTH} and {IN_FLIGHT} bytes at a time", io::ALIGN);
            return Err(Error::usage(format!("blocks of {bytes} bytes, {depth} at a time; can be measured: {rule}")));
        }
        let Some(mut walk) = Walk::new(&self.sizes, bytes as u64, self.start) else { return Ok(None) };
        self.forget_pages();
        let idle: Vec<WriteLease> = (0..depth).map(|slot| self.lease(slot, bytes)).collect::<Result<_>>()?;
        let begin = Instant::now();
        let count = self.keep_reading(&mut walk, idle, || begin.elapsed() < limit)?;
        let time = begin.elapsed();
        self.start += count;
        Ok(Some(super::gbps(count * bytes as u64, time)))
    }

    fn lease(&self, slot: usize, bytes: usize) -> Result<WriteLease> {
        let mut lease = self.arena.write(SlotId(slot as u32))?;
        lease.truncate(bytes);
        Ok(lease)
    }

    /// Keeps every buffer of `idle` in flight while `more` says so, then waits for the last; the count of reads.
    fn keep_reading(&mut self, walk: &mut Walk, mut idle: Vec<WriteLease>, more: impl Fn() -> bool) -> Result<u64> {
        let (mut count, mut failed) = (0, None);
        loop {
            if failed.is_none() && more() {
                self.opened.reader.submit(idle.drain(..).map(|buffer| next(walk, buffer)).collect());
            }
            let Some(first) = self.opened.reader.wait() else { break };
            let reader = &mut self.opened.reader;
            for Done { result, .. } in std::iter::once(first).chain(std::iter::from_fn(|| reader.poll())) {
                count += 1;
                match result {
                    Ok(buffers) => idle.extend(buffers),
                    Err(e) => failed = Some(e),
                }
            }
        }
        failed.map_or(Ok(count), Err)
    }

    /// Where O_DIRECT is refused, the page cache would answer instead of the disk.
    fn forget_pages(&self) {
        for source in &self.sources {
            // Advice: a file system may ignore it, as one that lives in memory does.
            let _ = fadvise(&source.file, 0, None, Advice::DontNeed);
        }
    }

    /// The engine's name.
    pub fn reader(&self) -> &'static str {
        self.opened.reader.name()
    }

    /// What the engine could not have, and why.
    pub fn notes(&self) -> &[String] {
        &self.opened.notes
    }

    /// Bytes that there are to read.
    pub fn bytes(&self) -> u64 {
        self.sizes.iter().sum()
    }

    /// What O_DIRECT needs here; none on kernels that do not tell (before 6.1).
    pub fn alignment(&self) -> Option<Alignment> {
        let found = statx(&self.sources.first()?.file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
        let told = found.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
        told.then_some(Alignment { memory: found.stx_dio_mem_align, offset: found.stx_dio_offset_align })
    }
}

/// A buffer for every read in flight, as large as its neighbours in front leave it; in memory already.
fn arena() -> Result<Arc<Arena>> {
    let size = |slot: usize| LARGEST.min(IN_FLIGHT / (slot + 1) / io::ALIGN * io::ALIGN);
    let arena = Arena::new(&[&(0..DEPTH).map(size).collect::<Vec<_>>()])?;
    for slot in 0..DEPTH {
        arena.write(SlotId(slot as u32))?.fill(0);
    }
    Ok(arena)
}

fn next(walk: &mut Walk, buffer: WriteLease) -> Read {
    let (file, offset) = walk.next_block();
    Read { file, offset, buffers: vec![buffer], token: 0, urgent: false }
}
