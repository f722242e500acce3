//! The marker that says whose a directory of a striped store is: its first root, the store itself, has the manifest.

use super::manifest::{MANIFEST, Manifest};
use super::regular::read_capped;
use super::roots::place;
use crate::error::{Error, Result, one_line, quoted};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// File that says to which store a root belongs.
pub const MARKER: &str = "m2cache-root.json";
/// What the marker's `format` field says.
const FORMAT: &str = "m2cache-root";
/// A marker above this is none of ours.
const MAX_MARKER: u64 = 4096;

/// What lies in every root but the first: a wrong disk at its path is recognised by it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    format: String,
    id: String,
    root: usize,
}

impl Marker {
    fn new(id: &str, root: usize) -> Marker {
        Marker { format: FORMAT.into(), id: id.into(), root }
    }
}

/// The directories of a store whose manifest was checked, in order; every one but the first carries its marker.
///
/// # Errors
/// `Error::Root` naming a directory that is not there or has no marker, `Error::Format` for another's marker.
pub fn directories(store: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let found: Vec<PathBuf> = manifest.roots.iter().map(|root| place(store, root)).collect();
    for (index, path) in found.iter().enumerate().skip(1) {
        check_marker(store, path, &Marker::new(&manifest.id, index))?;
    }
    Ok(found)
}

fn check_marker(store: &Path, root: &Path, want: &Marker) -> Result<()> {
    let missing = |source| Error::Root { store: store.into(), root: root.into(), source };
    if !root.metadata().map_err(missing)?.is_dir() {
        return Err(missing(std::io::ErrorKind::NotADirectory.into()));
    }
    let path = root.join(MARKER);
    let bytes = read_capped(&path, MAX_MARKER).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            missing(std::io::Error::other(format!("it has no {MARKER}")))
        }
        other => other,
    })?;
    let have: Marker = serde_json::from_slice(&bytes)
        .map_err(|e| Error::format(&path, one_line(&format!("the marker breaks its schema: {e}"))))?;
    match have == *want {
        true => Ok(()),
        false => Err(Error::format(
            &path,
            format!(
                "marks root {} of the store {}; {} has root {} of the store {} there: is it another disk?",
                have.root,
                quoted(&have.id),
                store.join(MANIFEST).display(),
                want.root,
                quoted(&want.id)
            ),
        )),
    }
}

/// The text of the marker of a root.
pub fn marker(id: &str, root: usize) -> String {
    serde_json::json!(Marker::new(id, root)).to_string()
}

/// The directories outside of `store` that are there and carry its marker; none where its manifest cannot be read.
fn owned(store: &Path) -> Vec<PathBuf> {
    let Ok(manifest) = Manifest::read(store) else { return vec![] };
    let roots = manifest.roots.iter().enumerate().skip(1).map(|(index, root)| (index, place(store, root)));
    let ours = roots.filter(|(index, path)| check_marker(store, path, &Marker::new(&manifest.id, *index)).is_ok());
    ours.filter_map(|(_, path)| path.canonicalize().ok()).collect()
}

/// Removes the directories that `store` owns and `other` does not: the files a store has, never what else lies there.
/// Nothing where the manifest of `store` cannot be read.
pub fn remove_roots(store: &Path, other: &Path) -> Result<()> {
    let kept = owned(other);
    for root in owned(store).into_iter().filter(|root| !kept.contains(root)) {
        remove(&root).map_err(|e| Error::io("removing the replaced root", &root, e))?;
    }
    Ok(())
}

/// The marker goes last: a root without it would be nobody's.
fn remove(root: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = name == "embed.safetensors" || (name.starts_with("layer-") && name.ends_with(".safetensors"));
        if file {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_file(root.join(MARKER))?;
    match std::fs::remove_dir(root) {
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()), // the rest is the user's
        result => result,
    }
}
