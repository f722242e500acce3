//! Opening files that somebody else put there.

use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Opens a regular file of a store; symbolic links are refused, so that a store cannot point outside itself.
///
/// # Errors
/// `Error::Io` if the system refuses; `Error::Format` for a link, a directory, a pipe or a device.
pub fn open_regular(path: &Path) -> Result<File> {
    open(path, OFlags::NOFOLLOW)
}

/// All of a small regular file of a store.
///
/// # Errors
/// Those of [`open_regular`], and `Error::Format` for a file above `most` bytes.
pub fn read_capped(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::io("reading", path, e))?;
    match bytes.len() as u64 > most {
        true => Err(Error::format(path, format!("is above {most} bytes"))),
        false => Ok(bytes),
    }
}

/// The same for files of others (checkpoints), where links are common: a hub's cache is made of them.
pub fn open_linked(path: &Path) -> Result<File> {
    open(path, OFlags::empty())
}

fn open(path: &Path, flags: OFlags) -> Result<File> {
    // NONBLOCK: a pipe in place of a file must be refused, not waited for.
    let opened = rustix::fs::open(path, flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::LOOP) if flags.contains(OFlags::NOFOLLOW) => {
            return Err(Error::format(path, "is a symbolic link; files of a store are regular files"));
        }
        Err(e) => return Err(Error::io("opening", path, e.into())),
    };
    match file.metadata().map_err(|e| Error::io("reading", path, e))?.is_file() {
        true => Ok(file),
        false => Err(Error::format(path, "is no regular file")),
    }
}
