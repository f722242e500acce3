//! Putting a finished directory in its place, atomically.

use super::marker::remove_roots;
use crate::error::{Error, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::path::Path;

/// Renames `partial` to `target` in one step. With `replace` an existing target is exchanged for it and then removed,
/// the roots it has elsewhere included; without, it is an error. A kill leaves either the old or the new directory at `target`, never a mixture.
///
/// # Errors
/// `Error::Io` naming the target; `Error::Usage` when it exists and `replace` is false.
pub fn publish(partial: &Path, target: &Path, replace: bool) -> Result<()> {
    match rename(partial, target, RenameFlags::NOREPLACE) {
        Ok(()) => sync_parent(target),
        Err(Errno::EXIST) if replace => exchange(partial, target),
        Err(Errno::EXIST) => {
            Err(Error::usage(format!("{} exists already; pass --force to replace it", target.display())))
        }
        Err(e) => Err(Error::io("renaming into", target, e.into())),
    }
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, flags) {
        // File systems without the flags (NFS, some FUSE): a plain rename refuses a directory that is not empty.
        Err(Errno::INVAL | Errno::NOSYS) if flags == RenameFlags::NOREPLACE && !to.exists() => {
            rustix::fs::rename(from, to)
        }
        result => result,
    }
}

fn exchange(partial: &Path, target: &Path) -> Result<()> {
    rename(partial, target, RenameFlags::EXCHANGE).map_err(|e| Error::io("replacing", target, e.into()))?;
    sync_parent(target)?;
    remove_roots(partial, target)?;
    std::fs::remove_dir_all(partial).map_err(|e| Error::io("removing the replaced store at", partial, e))
}

fn sync_parent(target: &Path) -> Result<()> {
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = std::fs::File::open(parent).map_err(|e| Error::io("opening", parent, e))?;
    dir.sync_all().map_err(|e| Error::io("syncing", parent, e))
}
