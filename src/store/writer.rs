//! Writing a store tile by tile: sizes are known up front, checksums are taken on the way, the header goes in last.

use super::declared::Declared;
use super::digest::digest;
use super::layout::{FileLayout, SectionLayout, TensorLayout, files};
use super::manifest::{FileEntry, MANIFEST, Manifest};
use super::marker::{MARKER, marker};
use super::roots::spread;
use super::tile::{RawRows, Tile, check_tile, sections_of};
use crate::config::{Architecture, Encoding};
use crate::error::{Error, Result};
use crate::types::{BLOCK, Matrix};
use rayon::prelude::*;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Writes the files of one store into its directory, or spread over several.
#[derive(Debug)]
pub struct StoreWriter {
    /// Where the roots are being written; the first gets the manifest.
    directories: Vec<PathBuf>,
    architecture: Architecture,
    encoding: Encoding,
    files: Vec<FileLayout>,
    /// The root of every file.
    roots: Vec<usize>,
    open: Option<Open>,
    done: HashMap<String, FileEntry>,
}

/// The file being written.
#[derive(Debug)]
struct Open {
    index: usize,
    path: PathBuf,
    file: File,
    header: u64,
    tensors: HashMap<String, TensorLayout>,
    declared: Declared,
    /// Checksums per section; none where not yet written.
    sums: Vec<Vec<Option<u64>>>,
    zeros: u64,
}

impl StoreWriter {
    /// A writer into existing directories: the store's, and those of further roots.
    ///
    /// # Errors
    /// `Error::Usage` when architecture or encoding break a rule, or there are more roots than files.
    pub fn new(directories: Vec<PathBuf>, architecture: Architecture, encoding: Encoding) -> Result<StoreWriter> {
        architecture.validate().and_then(|()| architecture.refuse_unbuilt()).map_err(Error::Usage)?;
        encoding.validate(&architecture).map_err(Error::Usage)?;
        let files = files(&architecture, &encoding);
        if !(1..=files.len()).contains(&directories.len()) {
            let (have, most) = (directories.len(), files.len());
            return Err(Error::usage(format!("{have} directories for {most} files; 1 to {most} can hold some")));
        }
        let (open, done, roots) = (None, HashMap::new(), vec![]);
        let mut writer = StoreWriter { directories, architecture, encoding, files, roots, open, done };
        let sizes: Vec<u64> = writer.sizes().into_iter().map(|(_, bytes)| bytes).collect();
        writer.roots = spread(&sizes, writer.directories.len());
        Ok(writer)
    }

    /// The root of every file.
    pub fn roots(&self) -> &[usize] {
        &self.roots
    }

    fn path(&self, index: usize) -> PathBuf {
        self.directories[self.roots[index]].join(&self.files[index].name)
    }

    /// Names and exact sizes in bytes.
    pub fn sizes(&self) -> Vec<(String, u64)> {
        self.files.iter().map(|f| (f.name.clone(), self.file_bytes(f))).collect()
    }

    fn file_bytes(&self, layout: &FileLayout) -> u64 {
        self.header_bytes(layout) + layout.data_bytes()
    }

    fn header_bytes(&self, layout: &FileLayout) -> u64 {
        self.declared(layout).header(layout).len() as u64
    }

    fn declared(&self, layout: &FileLayout) -> Declared {
        Declared::new(self.architecture.hidden, self.encoding.coding, layout)
    }

    /// Starts one file, truncating what an earlier attempt left; its disk space is taken now.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        let index = self
            .files
            .iter()
            .position(|f| f.name == name)
            .ok_or_else(|| Error::usage(format!("the store has no file {name:?}")))?;
        let (layout, path) = (&self.files[index], self.path(index));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|e| Error::io("creating", &path, e))?;
        reserve(&file, self.file_bytes(layout)).map_err(|e| Error::io("reserving space for", &path, e))?;
        let tensors = layout.tensors().into_iter().map(|t| (t.name.clone(), t)).collect();
        let sums = layout.sections.iter().map(|s| vec![None; s.checks()]).collect();
        let header = self.header_bytes(layout);
        self.open = Some(Open { index, path, file, header, tensors, declared: self.declared(layout), sums, zeros: 0 });
        Ok(())
    }

    /// Writes a norm gain or bias of the open file.
    pub fn vector(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let (open, layout) = self.opened()?;
        let known = layout.vectors.iter().position(|v| v.name == name && v.len == values.len());
        let Some(at) = known else {
            return Err(Error::usage(format!("{} takes no vector {name} of {} values", layout.name, values.len())));
        };
        if let Some(bad) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::Weight {
                tensor: name.into(),
                row: 0,
                group: bad / BLOCK,
                why: "a value is not finite",
            });
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        open.write(&open.tensors[name], 0, &bytes)?;
        open.declared.vectors[at].digest = digest(&bytes);
        Ok(())
    }

    fn opened(&mut self) -> Result<(&mut Open, &FileLayout)> {
        let open = self.open.as_mut().ok_or_else(|| Error::usage("no file of the store is open; call begin first"))?;
        let layout = &self.files[open.index];
        Ok((open, layout))
    }

    /// Codes and writes records `first..` of matrices that share records (q, k, v, o, embed, head alone; a neuron's
    /// matrices together); `column_scale` multiplies every row but those of `down`. Returns the number of exact zeros in
    /// groups that are not all zero.
    ///
    /// # Errors
    /// `Error::Usage` for shapes that do not fit; `Error::Weight` naming tensor, row and group of a value that cannot be
    /// coded; `Error::Io`.
    pub fn records(&mut self, first: usize, rows: &[(Matrix, RawRows)], column_scale: Option<&[f32]>) -> Result<u64> {
        let (width, encoding) = (self.architecture.hidden, self.encoding.clone());
        let (open, layout) = self.opened()?;
        let sections = sections_of(layout, rows)?;
        let count = check_tile(first, rows, width, column_scale, &sections)?;
        let tile = Tile { encoding: &encoding, width, first, rows, column_scale, sections: &sections };
        let (bytes, zeros) = tile.encode(count)?;
        for (at, (index, section)) in sections.iter().enumerate() {
            open.write_records(*index, section, first, &tile.gather(&bytes, at, count))?;
        }
        open.zeros += zeros;
        Ok(zeros)
    }

    /// Writes records `first..` of section `index` of the open file as they are to lie there.
    pub(super) fn coded(&mut self, index: usize, first: usize, bytes: &[u8]) -> Result<()> {
        let (open, layout) = self.opened()?;
        open.write_records(index, &layout.sections[index], first, bytes)
    }

    /// Number and layout of the open file.
    pub(super) fn opened_layout(&mut self) -> Result<(usize, FileLayout)> {
        self.opened().map(|(open, layout)| (open.index, layout.clone()))
    }

    /// Counts exact zeros of the open file, as its source did.
    pub(super) fn count_zeros(&mut self, zeros: u64) {
        self.open.iter_mut().for_each(|open| open.zeros += zeros);
    }

    /// What the store codes, and how.
    pub(super) fn shape(&self) -> (&Architecture, &Encoding) {
        (&self.architecture, &self.encoding)
    }

    /// Completes the open file: checksum tables, header, fsync.
    pub fn end(&mut self) -> Result<FileEntry> {
        let mut open =
            self.open.take().ok_or_else(|| Error::usage("no file of the store is open; call begin first"))?;
        let layout = &self.files[open.index];
        open.write_tables(layout)?;
        let header = open.write_header(layout)?;
        open.file.sync_all().map_err(|e| Error::io("syncing", &open.path, e))?;
        let entry = FileEntry {
            name: layout.name.clone(),
            bytes: self.file_bytes(layout),
            digest: digest(&header),
            weights: layout.weights(self.architecture.hidden),
            zeros: open.zeros,
        };
        self.done.insert(entry.name.clone(), entry.clone());
        Ok(entry)
    }

    /// Takes over a file that an interrupted run finished; false when it is not there as the entry says.
    pub fn adopt(&mut self, entry: FileEntry) -> bool {
        let known = self.files.iter().position(|f| f.name == entry.name && self.file_bytes(f) == entry.bytes);
        let sound = known.is_some_and(|index| {
            super::header::read_header(&self.path(index)).is_ok_and(|h| digest(&h.raw) == entry.digest)
        });
        if sound {
            self.done.insert(entry.name.clone(), entry);
        }
        sound
    }

    /// Writes the markers of further roots and the manifest, and returns the store's id; `fill` sets what the writer
    /// cannot know.
    pub fn finish(&mut self, fill: impl FnOnce(&mut Manifest) -> Result<()>) -> Result<String> {
        let missing = self.files.iter().find(|f| !self.done.contains_key(&f.name));
        if let Some(file) = missing {
            return Err(Error::usage(format!("{} is not written yet", file.name)));
        }
        let entries = self.files.iter().map(|f| self.done[&f.name].clone()).collect();
        let mut manifest = Manifest::new(self.architecture.clone(), self.encoding.clone(), entries);
        fill(&mut manifest)?;
        manifest.seal().map_err(Error::Usage)?;
        if manifest.roots.len() != self.directories.len() {
            let (named, written) = (manifest.roots.len(), self.directories.len());
            return Err(Error::usage(format!("{named} roots are named, but files were written into {written}")));
        }
        for (root, directory) in self.directories.iter().enumerate().skip(1) {
            write_durably(directory, MARKER, &marker(&manifest.id, root))?;
        }
        write_durably(&self.directories[0], MANIFEST, &format!("{:#}", serde_json::json!(manifest)))?;
        Ok(manifest.id)
    }

    /// Where the store itself is being written.
    pub fn directory(&self) -> &Path {
        &self.directories[0]
    }
}

impl Open {
    fn write(&self, tensor: &TensorLayout, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.header + tensor.begin + at).map_err(|e| Error::io("writing", &self.path, e))
    }

    fn write_records(&mut self, index: usize, section: &SectionLayout, first: usize, bytes: &[u8]) -> Result<()> {
        let unit = section.check * section.stride;
        let sums: Vec<u64> = bytes.par_chunks(unit).map(xxh3_64).collect();
        let begin = first / section.check;
        let slots = &mut self.sums[index][begin..begin + sums.len()];
        if slots.iter().any(Option::is_some) {
            return Err(Error::usage(format!("records {first}.. of section {} were written already", section.name)));
        }
        slots.iter_mut().zip(sums).for_each(|(slot, sum)| *slot = Some(sum));
        self.write(&self.tensors[&section.name], (first * section.stride) as u64, bytes)
    }

    fn write_tables(&mut self, layout: &FileLayout) -> Result<()> {
        for (index, section) in layout.sections.iter().enumerate() {
            let sums: Option<Vec<u64>> = self.sums[index].iter().copied().collect();
            let Some(sums) = sums else {
                return Err(Error::usage(format!(
                    "{}: section {} has records that were never written",
                    layout.name, section.name
                )));
            };
            let bytes: Vec<u8> = sums.iter().flat_map(|s| s.to_le_bytes()).collect();
            self.write(&self.tensors[&format!("xxh3.{}", section.name)], 0, &bytes)?;
            self.declared.sections[index].digest = digest(&bytes);
        }
        let blank = self.declared.vectors.iter().find(|v| v.digest.bytes().all(|b| b == b'0'));
        match blank {
            Some(v) => Err(Error::usage(format!("{}: vector {} was never written", layout.name, v.name))),
            None => Ok(()),
        }
    }

    fn write_header(&self, layout: &FileLayout) -> Result<Vec<u8>> {
        let header = self.declared.header(layout);
        self.file.write_all_at(&header, 0).map_err(|e| Error::io("writing", &self.path, e))?;
        Ok(header)
    }
}

/// Takes the file's blocks now, so that a full disk is met before the work; a sparse file where that is not supported.
fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    use rustix::{fs::FallocateFlags, io::Errno};
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes),
        result => result.map_err(Into::into),
    }
}

fn write_durably(directory: &Path, name: &str, text: &str) -> Result<()> {
    let (path, temporary) = (directory.join(name), directory.join(format!("{name}.tmp")));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(format!("{text}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|e| Error::io("writing", &path, e))
}
