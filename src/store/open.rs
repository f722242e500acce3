//! An open store: where its sections lie, and reading them.

use super::accept::{StoreFile, open_file};
use super::catalog::{Catalog, SectionId};
use super::digest::digest;
use super::layout::{SectionLayout, file};
use super::manifest::{MANIFEST, Manifest};
use super::marker;
use super::regular::open_regular;
use super::roots;
use crate::error::{Error, Result};
use crate::types::{Matrix, Plane};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where a section lies.
#[derive(Clone, Debug)]
pub struct Section {
    /// Index into [`Store::files`].
    pub file: usize,
    /// Shape, stride, parts.
    pub layout: SectionLayout,
    /// First byte of the first record in the file.
    pub begin: u64,
    /// First byte of the checksum table in the file.
    pub sums: u64,
    /// Set once the table was found to match the header's digest.
    pub(super) trusted: OnceLock<()>,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    /// The directory.
    pub path: PathBuf,
    /// The manifest, checked.
    pub manifest: Manifest,
    /// The directories that hold its files, the store itself first.
    pub roots: Vec<PathBuf>,
    /// The root of every file.
    places: Vec<usize>,
    /// Files of weights, layers first.
    pub files: Vec<StoreFile>,
    /// Sections of all files.
    pub sections: Vec<Section>,
    catalog: Catalog,
}

impl Store {
    /// Opens a store and checks its manifest, its roots and every header.
    ///
    /// # Errors
    /// `Error::Io`, `Error::Root`, `Error::Format`, `Error::Header`, `Error::Truncated`, `Error::Unsupported`, each naming the file.
    pub fn open(path: &Path) -> Result<Store> {
        let mut store = Store::closed(path)?;
        // One after the other: the manifest of a hostile store can claim more files than it has.
        (0..store.manifest.files.len()).try_for_each(|index| store.open_file(index))?;
        store.manifest.assets.iter().try_for_each(|asset| check_asset(&store.path.join(&asset.name)))?;
        Ok(store)
    }

    /// A store of which no file is open: its manifest and its roots are checked.
    pub(super) fn closed(path: &Path) -> Result<Store> {
        if path.extension().is_some_and(|e| e == "partial") {
            return Err(Error::format(path, "is an unfinished conversion: run the same conversion again"));
        }
        let manifest = Manifest::read(path)?;
        check_count(path, &manifest)?;
        let roots = marker::directories(path, &manifest)?;
        Ok(Store::unopened(path.into(), manifest, roots))
    }

    fn unopened(path: PathBuf, manifest: Manifest, roots: Vec<PathBuf>) -> Store {
        let sizes: Vec<u64> = manifest.files.iter().map(|f| f.bytes).collect();
        let places = roots::spread(&sizes, roots.len());
        Store { path, manifest, roots, places, files: vec![], sections: vec![], catalog: Catalog::default() }
    }

    /// The same store with one of its files open, to be checked.
    pub(super) fn with_file(&self, index: usize) -> Result<Store> {
        let mut store = Store::unopened(self.path.clone(), self.manifest.clone(), self.roots.clone());
        store.open_file(index)?;
        Ok(store)
    }

    /// Opens a file of weights behind those that are open.
    fn open_file(&mut self, index: usize) -> Result<()> {
        let layout = file(&self.manifest.architecture, &self.manifest.encoding, index);
        let root = self.places[index];
        let file = open_file((&self.path, &self.manifest), index, layout, (root, &self.roots[root]))?;
        self.index(file);
        Ok(())
    }

    fn index(&mut self, file: StoreFile) {
        let header = file.bytes - file.layout.data_bytes();
        let tensors: HashMap<String, u64> =
            file.layout.tensors().into_iter().map(|t| (t.name, header + t.begin)).collect();
        self.catalog.add(&self.manifest.architecture, &self.manifest.encoding, &file.layout);
        for layout in file.layout.sections.clone() {
            let (begin, sums) = (tensors[&layout.name], tensors[&format!("xxh3.{}", layout.name)]);
            self.sections.push(Section { file: self.files.len(), layout, begin, sums, trusted: OnceLock::new() });
        }
        self.files.push(file);
    }

    /// The section that holds a matrix's plane, and where in its records; `layer` is none for embedding and head.
    ///
    /// # Errors
    /// `Error::Usage` when the plane is not stored.
    pub fn slice(&self, layer: Option<usize>, matrix: Matrix, plane: Plane) -> Result<(SectionId, usize)> {
        self.catalog.slice(layer, (matrix, plane)).ok_or_else(|| {
            let stored = self.manifest.encoding.stored().iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
            let path = self.path.display();
            Error::usage(format!("{path} does not store the {} plane of {} (it has {stored}): ask for a lower precision, or convert with --planes {}",
                plane.name(), matrix.name(), if plane == Plane::Low { "all" } else { "mid" }))
        })
    }

    /// What its sections are, and in which of them a matrix's plane lies.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// A section by id.
    pub fn section(&self, id: SectionId) -> &Section {
        &self.sections[id.0 as usize]
    }

    /// A vector's values, checked against the header's digest.
    pub fn vector(&self, layer: Option<usize>, name: &str) -> Result<Vec<f32>> {
        let unknown = || Error::usage(format!("{} has no vector {name} there", self.path.display()));
        let index = self.files.iter().position(|f| f.layout.layer == layer).ok_or_else(unknown)?;
        let file = &self.files[index];
        let len = file.layout.vectors.iter().find(|v| v.name == name).map(|v| v.len).ok_or_else(unknown)?;
        let (begin, want) = file.vectors.get(name).ok_or_else(unknown)?;
        let mut bytes = vec![0u8; 4 * len];
        self.read_at(index, *begin, &mut bytes)?;
        match digest(&bytes) == *want {
            true => Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            false => Err(Error::Digest { path: file.path.clone(), what: format!("vector {name}") }),
        }
    }

    /// The stored checksums of the units `first..first + count` of a section.
    pub fn checksums(&self, id: SectionId, first: usize, count: usize) -> Result<Vec<u64>> {
        let section = self.section(id);
        let mut bytes = vec![0u8; 8 * count];
        self.read_at(section.file, section.sums + 8 * first as u64, &mut bytes)?;
        Ok(bytes
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect())
    }

    /// Fills `buffer` from a file; a file that ends early is named as truncated.
    pub fn read_at(&self, file: usize, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let StoreFile { file, path, .. } = &self.files[file];
        file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => truncated(path, file, offset + buffer.len() as u64),
            _ => Error::io("reading", path, e),
        })
    }
}

/// The error for a file that ends before `end`.
pub fn truncated(path: &Path, file: &File, end: u64) -> Error {
    let size = file.metadata().map_or(0, |m| m.len());
    Error::Truncated { path: path.into(), size, what: "a read".into(), end }
}

fn check_count(path: &Path, manifest: &Manifest) -> Result<()> {
    let (have, want) = (manifest.files.len(), manifest.architecture.layers + 1);
    match have == want {
        true => Ok(()),
        false => Err(Error::format(
            path.join(MANIFEST),
            format!("lists {have} files; {} layers and the embedding make {want}", want - 1),
        )),
    }
}

/// What a link or a pipe in place of an asset would do to its reader is seen here; a missing one is left to `verify`
/// and to who needs it, since token ids need no tokenizer.
fn check_asset(path: &Path) -> Result<()> {
    match open_regular(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map(|_| ()),
    }
}
