//! Accepting a file of weights: entry, size and header are checked against the layout that architecture and encoding
//! dictate, so that nothing behind this point meets an offset, count or name that the arithmetic did not produce itself.

use super::declared::Declared;
use super::digest::digest;
use super::header::{Header, read_header_from};
use super::layout::FileLayout;
use super::manifest::{FileEntry, MANIFEST, Manifest};
use super::regular::open_regular;
use crate::error::{Error, Result, one_line, quoted};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file of weights.
#[derive(Debug)]
pub struct StoreFile {
    /// Its path, for messages.
    pub path: PathBuf,
    /// The handle.
    pub file: Arc<File>,
    /// Index into the roots of the store: the directory it lies in.
    pub root: usize,
    /// What it holds.
    pub layout: FileLayout,
    /// The digests its header declares.
    pub declared: Declared,
    /// Size in bytes.
    pub bytes: u64,
    /// First byte and digest of every vector.
    pub(super) vectors: HashMap<String, (u64, String)>,
}

/// Opens file `index` of a store (its directory and manifest) in one of its roots (which, and where), if it is exactly
/// what its layout and the manifest say.
pub fn open_file(
    (store, manifest): (&Path, &Manifest),
    index: usize,
    layout: FileLayout,
    (root, folder): (usize, &Path),
) -> Result<StoreFile> {
    let entry = &manifest.files[index];
    let blank = Declared::new(manifest.architecture.hidden, manifest.encoding.coding, &layout);
    let header_bytes = blank.header(&layout).len() as u64;
    check_entry(entry, &layout, header_bytes, manifest.architecture.hidden)
        .map_err(|e| Error::format(store.join(MANIFEST), e))?;
    let path = folder.join(&layout.name);
    let mut file = open_regular(&path)?;
    let size = file.metadata().map_err(|e| Error::io("reading", &path, e))?.len();
    check_size(&path, size, entry.bytes)?;
    let header = read_header_from(&mut file, size, header_bytes - 8, &path)?;
    let declared = check_header(&path, &header, entry, &layout, blank)?;
    let vectors = vector_index(&header, &declared);
    Ok(StoreFile { path, file: Arc::new(file), root, layout, declared, bytes: size, vectors })
}

/// Everything an entry says but the digest follows from the layout.
fn check_entry(entry: &FileEntry, layout: &FileLayout, header: u64, width: usize) -> std::result::Result<(), String> {
    let (name, bytes, weights) = (quoted(&entry.name), header + layout.data_bytes(), layout.weights(width));
    if entry.name != layout.name {
        return Err(format!("lists the file {name} where {:?} belongs", layout.name));
    }
    if entry.bytes != bytes || entry.weights != weights {
        return Err(format!(
            "says that {name} has {} bytes and {} weights; this architecture makes them {bytes} and {weights}",
            entry.bytes, entry.weights
        ));
    }
    match entry.zeros <= weights {
        true => Ok(()),
        false => Err(format!("says that {name} has {} zeros among {weights} weights", entry.zeros)),
    }
}

fn check_size(path: &Path, size: u64, want: u64) -> Result<()> {
    match size.cmp(&want) {
        std::cmp::Ordering::Less => {
            Err(Error::Truncated { path: path.into(), size, what: "the manifest".into(), end: want })
        }
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => {
            Err(Error::format(path, format!("has {size} bytes; the manifest says {want}: something was appended")))
        }
    }
}

fn check_header(
    path: &Path,
    header: &Header,
    entry: &FileEntry,
    layout: &FileLayout,
    blank: Declared,
) -> Result<Declared> {
    check_tensors(header, layout).map_err(|e| Error::format(path, e))?;
    if digest(&header.raw) != entry.digest {
        let rule = "the header does not match the manifest's digest: the file is damaged or from another store";
        return Err(Error::format(path, rule));
    }
    let declared = declared(path, header)?;
    check_declared(&declared, blank).map_err(|e| Error::format(path, e))?;
    match declared.header(layout) == header.raw {
        true => Ok(declared),
        false => Err(Error::format(
            path,
            "the header is not written in the format's one way (compact JSON, sorted names, spaces up to a page)",
        )),
    }
}

fn check_tensors(header: &Header, layout: &FileLayout) -> std::result::Result<(), String> {
    let base = header.raw.len() as u64;
    let want = layout.tensors();
    for (have, want) in header.tensors.iter().zip(&want) {
        let same = have.name == want.name
            && have.dtype == want.dtype
            && have.shape == want.shape
            && have.begin == base + want.begin;
        if !same {
            return Err(format!(
                "tensor {} ({} {:?} at {}) stands where the layout has {:?} ({} {:?} at {})",
                quoted(&have.name),
                have.dtype,
                have.shape,
                have.begin,
                want.name,
                want.dtype,
                want.shape,
                base + want.begin
            ));
        }
    }
    match header.tensors.len() == want.len() {
        true => Ok(()),
        false => Err(format!("has {} tensors; the layout has {}", header.tensors.len(), want.len())),
    }
}

fn declared(path: &Path, header: &Header) -> Result<Declared> {
    let text =
        header.metadata.get("m2cache").ok_or_else(|| Error::format(path, "the header has no m2cache metadata"))?;
    serde_json::from_str(text)
        .map_err(|e| Error::format(path, one_line(&format!("the header's m2cache metadata breaks its schema: {e}"))))
}

/// What is declared must be what the layout says; only the digests are the file's own.
fn check_declared(declared: &Declared, mut want: Declared) -> std::result::Result<(), String> {
    declared.sections.iter().zip(&mut want.sections).for_each(|(d, w)| w.digest.clone_from(&d.digest));
    declared.vectors.iter().zip(&mut want.vectors).for_each(|(d, w)| w.digest.clone_from(&d.digest));
    match *declared == want {
        true => Ok(()),
        false => Err("the header declares sections that the manifest's architecture and encoding do not have".into()),
    }
}

fn vector_index(header: &Header, declared: &Declared) -> HashMap<String, (u64, String)> {
    let begin: HashMap<&str, u64> = header.tensors.iter().map(|t| (t.name.as_str(), t.begin)).collect();
    declared.vectors.iter().map(|v| (v.name.clone(), (begin[v.name.as_str()], v.digest.clone()))).collect()
}
