//! A file to be measured that has no name: nothing is left of it, however the process ends.

use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags, open, unlink};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes written at once.
const PIECE: usize = 1 << 20;
/// Pieces between two waits for the disk, where writes go through the page cache.
const SYNC: u64 = 8;

/// Writes up to `bytes` of noise (a disk may compress) into a file in `directory`, for `limit` at most, and returns it
/// with the bytes it holds. A full disk ends it early. `buffer` is one page-aligned piece.
///
/// # Errors
/// `Error::Io` if no file can be made there, or not a piece of it.
pub fn make(directory: &Path, bytes: u64, limit: Duration, buffer: &mut [u8]) -> Result<(File, u64)> {
    let (file, direct) =
        unnamed(directory).map_err(|e| Error::io("making a file to measure in", directory, e.into()))?;
    let (begin, mut noise, mut at) = (Instant::now(), Noise(1), 0);
    while at < bytes && (at == 0 || begin.elapsed() < limit) {
        noise.fill(&mut buffer[..PIECE]);
        let done = file.write_all_at(&buffer[..PIECE], at).and_then(|()| {
            at += PIECE as u64;
            if direct || !(at / PIECE as u64).is_multiple_of(SYNC) { Ok(()) } else { file.sync_data() }
        });
        match done {
            Err(_) if at > 0 => break,
            done => done.map_err(|e| Error::io("writing a file to measure into", directory, e))?,
        }
    }
    file.sync_data().map_err(|e| Error::io("writing a file to measure into", directory, e))?;
    Ok((file, at))
}

/// An open file without a name, and whether it goes past the page cache: without that, half a gigabyte of dirty pages
/// would be charged to whoever measures.
fn unnamed(directory: &Path) -> Result<(File, bool), Errno> {
    let tries =
        [(make_nameless as Make, true), (make_nameless, false), (make_and_unlink, true), (make_and_unlink, false)];
    let mut refused = Errno::INVAL;
    for (make, direct) in tries {
        match make(directory, if direct { OFlags::DIRECT } else { OFlags::empty() }) {
            Ok(file) => return Ok((file, direct)),
            Err(e) => refused = e,
        }
    }
    Err(refused)
}

type Make = fn(&Path, OFlags) -> Result<File, Errno>;

fn make_nameless(directory: &Path, flags: OFlags) -> Result<File, Errno> {
    open(directory, flags | OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// For file systems without nameless files; only a kill between the two calls leaves the name, of an empty file.
fn make_and_unlink(directory: &Path, flags: OFlags) -> Result<File, Errno> {
    let path = directory.join(format!(".m2cache-doctor-{}", std::process::id()));
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let file = open(&path, flags, Mode::RUSR | Mode::WUSR);
    if file.is_ok() || file.as_ref().is_err_and(|e| *e == Errno::INVAL) {
        // A file system that refuses O_DIRECT has made the file by then.
        let _ = unlink(&path);
    }
    file.map(File::from)
}

/// Bytes without a pattern (xorshift64).
pub struct Noise(pub u64);

impl Noise {
    /// Fills whole words; a rest of under 8 bytes stays.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}
