//! Files as the engines read them: past the page cache where the file system allows it.

use super::{ALIGN, Read, Source};
use crate::error::{Error, Result, remedy};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};
use rustix::io::{Errno, pread};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

/// An open file of the store.
#[derive(Debug)]
pub struct Handle {
    path: PathBuf,
    file: Arc<File>,
    direct: Option<File>,
}

impl Handle {
    /// Opens every file for direct I/O, and says of which files and why that was refused: one sentence a reason.
    pub fn open_all(sources: Vec<Source>) -> Result<(Arc<Vec<Handle>>, Vec<String>)> {
        let mut refused: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        let mut handles = Vec::with_capacity(sources.len());
        for source in sources {
            let direct = reopen(&source.file).map_err(|why| refused.entry(why).or_default().push(source.path.clone()));
            blocking(&source)?;
            handles.push(Handle { path: source.path, file: source.file, direct: direct.ok() });
        }
        Ok((Arc::new(handles), refused.iter().map(|(why, paths)| note(why, paths)).collect()))
    }

    /// Whether direct I/O can read what is left of a read of which `done` bytes have come: it takes whole pages only, so
    /// what begins or ends inside one goes through the page cache. (Slots begin on pages.)
    pub fn is_direct(&self, read: &Read, done: usize) -> bool {
        self.direct.is_some()
            && read.offset.is_multiple_of(ALIGN as u64)
            && done.is_multiple_of(ALIGN)
            && read.buffers.iter().all(|b| b.len().is_multiple_of(ALIGN))
    }

    /// The handle for what is left of a read.
    pub fn of(&self, read: &Read, done: usize) -> &File {
        self.direct.as_ref().filter(|_| self.is_direct(read, done)).unwrap_or(&self.file)
    }

    /// Both handles, direct first; the same one twice where direct I/O is refused.
    pub fn both(&self) -> [&File; 2] {
        [self.direct.as_ref().unwrap_or(&self.file), &self.file]
    }

    /// The error for a file that ends before `end`.
    pub fn ended(&self, end: u64) -> Error {
        let size = self.file.metadata().map_or(0, |m| m.len());
        Error::Truncated { path: self.path.clone(), size, what: "a read".into(), end }
    }

    /// The error for what the system said about a read.
    pub fn failed(&self, errno: i32) -> Error {
        Error::io("reading", &self.path, std::io::Error::from_raw_os_error(errno))
    }
}

/// A handle that bypasses the page cache, or why there is none. The open file itself is opened again: what lies under
/// its name by now may be another one.
fn reopen(file: &File) -> Result<File, String> {
    let known = alignment(file);
    match known {
        Some(0) => return Err("its file system has no direct I/O".into()),
        Some(n) if n > ALIGN as u32 => {
            return Err(format!(
                "direct I/O there takes blocks of {n} bytes, and a store is cut into pages of {ALIGN}"
            ));
        }
        _ => {}
    }
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let refused = |e: Errno| {
        let source = std::io::Error::from(e);
        format!("direct I/O is refused ({source}{})", remedy(&source))
    };
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let direct = rustix::fs::open(name, flags, Mode::empty()).map(File::from).map_err(refused)?;
    match known {
        Some(_) => Ok(direct),
        None => try_page(&direct).map(|()| direct).map_err(refused),
    }
}

/// What direct I/O on a file has to be aligned to, 0 for no direct I/O, where kernel and file system say (Linux 6.1).
fn alignment(file: &File) -> Option<u32> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN);
    told.then_some(stat.stx_dio_offset_align.max(stat.stx_dio_mem_align))
}

/// Some file systems accept the flag and refuse the reads.
fn try_page(file: &File) -> Result<(), Errno> {
    let mut memory = vec![0u8; 2 * ALIGN];
    let at = memory.as_ptr().align_offset(ALIGN);
    pread(file, &mut memory[at..at + ALIGN], 0).map(|_| ())
}

/// Takes back the O_NONBLOCK that the store opens its files with: io_uring would answer EAGAIN to whatever the page
/// cache does not hold.
fn blocking(source: &Source) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(&source.file);
    let cleared = flags.and_then(|f| rustix::fs::fcntl_setfl(&source.file, f - OFlags::NONBLOCK));
    cleared.map_err(|e| Error::io("preparing", &source.path, e.into()))
}

fn note(why: &str, paths: &[PathBuf]) -> String {
    let more = match paths.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    format!("{}{more}: read through the page cache, since {why}", paths[0].display())
}
