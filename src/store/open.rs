//! Opening a store: every header is checked against the layout that architecture and encoding dictate, so that nothing
//! behind this point meets an offset, count or name that the arithmetic did not produce itself.

use super::declared::Declared;
use super::header::{Header, read_header_from};
use super::layout::{FileLayout, SectionLayout, files};
use super::manifest::{FileEntry, MANIFEST, Manifest, digest};
use crate::config::Slice;
use crate::error::{Error, Result};
use crate::types::{Matrix, Plane};
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A section of the store, counted over all files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionId(pub u32);

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
}

/// An open file of weights.
#[derive(Debug)]
pub struct StoreFile {
    /// Its path, for messages.
    pub path: PathBuf,
    /// The handle.
    pub file: Arc<File>,
    /// What it holds.
    pub layout: FileLayout,
    /// The digests its header declares.
    pub declared: Declared,
    /// Size in bytes.
    pub bytes: u64,
    vectors: HashMap<String, (u64, String)>,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    /// The directory.
    pub path: PathBuf,
    /// The manifest, checked.
    pub manifest: Manifest,
    /// Files of weights, layers first.
    pub files: Vec<StoreFile>,
    /// Sections of all files.
    pub sections: Vec<Section>,
    slices: HashMap<(Option<usize>, Slice), (SectionId, usize)>,
}

impl Store {
    /// Opens a store and checks its manifest and every header.
    ///
    /// # Errors
    /// `Error::Io`, `Error::Format`, `Error::Header`, `Error::Truncated`, `Error::Unsupported`, each naming the file.
    pub fn open(path: &Path) -> Result<Store> {
        let manifest = Manifest::read(path)?;
        let layouts = files(&manifest.architecture, &manifest.encoding);
        check_file_list(path, &manifest.files, &layouts)?;
        let mut store = Store { path: path.into(), manifest, files: vec![], sections: vec![], slices: HashMap::new() };
        for layout in layouts {
            let file = open_file(&store, layout)?;
            store.index(file);
        }
        Ok(store)
    }

    fn index(&mut self, file: StoreFile) {
        let header = 8 + header_len(&file);
        let tensors: HashMap<String, u64> =
            file.layout.tensors().into_iter().map(|t| (t.name, header + t.begin)).collect();
        for layout in file.layout.sections.clone() {
            let id = SectionId(self.sections.len() as u32);
            for slice in &layout.parts {
                if let Some(offset) =
                    layout.part_offset(&self.manifest.encoding, self.manifest.architecture.hidden, *slice)
                {
                    self.slices.insert((file.layout.layer, *slice), (id, offset));
                }
            }
            let (begin, sums) = (tensors[&layout.name], tensors[&format!("xxh3.{}", layout.name)]);
            self.sections.push(Section { file: self.files.len(), layout, begin, sums });
        }
        self.files.push(file);
    }

    /// The section that holds a matrix's plane, and where in its records; `layer` is none for embedding and head.
    ///
    /// # Errors
    /// `Error::Usage` when the plane is not stored.
    pub fn slice(&self, layer: Option<usize>, matrix: Matrix, plane: Plane) -> Result<(SectionId, usize)> {
        self.slices.get(&(layer, (matrix, plane))).copied().ok_or_else(|| {
            let stored = self.manifest.encoding.stored().iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
            let path = self.path.display();
            Error::usage(format!("{path} does not store the {} plane of {} (it has {stored}): ask for a lower precision, or convert with --planes {}",
                plane.name(), matrix.name(), if plane == Plane::Low { "all" } else { "mid" }))
        })
    }

    /// A section by id.
    pub fn section(&self, id: SectionId) -> &Section {
        &self.sections[id.0 as usize]
    }

    /// The layer a section belongs to; none for embedding and head.
    pub fn layer_of(&self, id: SectionId) -> Option<usize> {
        self.files[self.section(id).file].layout.layer
    }

    /// A vector's values, checked against the header's digest.
    pub fn vector(&self, layer: Option<usize>, name: &str) -> Result<Vec<f32>> {
        let index = layer.unwrap_or(self.files.len() - 1);
        let file = &self.files[index];
        let len = file.layout.vectors.iter().find(|v| v.name == name).map(|v| v.len);
        let (Some(len), Some((begin, want))) = (len, file.vectors.get(name)) else {
            return Err(Error::usage(format!("{} has no vector {name}", file.path.display())));
        };
        let mut bytes = vec![0u8; 4 * len];
        self.read_at(index, *begin, &mut bytes)?;
        match digest(&bytes) == *want {
            true => Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            false => Err(Error::format(
                &file.path,
                format!("vector {name} does not match its digest: the file is damaged, convert the model again"),
            )),
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

/// Opens a regular file for reading; symlinks are refused, so that a store cannot point outside itself.
pub fn open_regular(path: &Path) -> Result<File> {
    // NONBLOCK: a FIFO in place of a file must be refused, not waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::LOOP) => {
            return Err(Error::format(path, "is a symbolic link; files of a store are regular files"));
        }
        Err(e) => return Err(Error::io("opening", path, e.into())),
    };
    match file.metadata().map_err(|e| Error::io("reading", path, e))?.is_file() {
        true => Ok(file),
        false => Err(Error::format(path, "is no regular file")),
    }
}

fn check_file_list(path: &Path, entries: &[FileEntry], layouts: &[FileLayout]) -> Result<()> {
    let manifest = path.join(MANIFEST);
    if entries.len() != layouts.len() {
        return Err(Error::format(
            manifest,
            format!("lists {} files; this architecture has {}", entries.len(), layouts.len()),
        ));
    }
    match entries.iter().zip(layouts).find(|(e, l)| e.name != l.name) {
        Some((e, l)) => Err(Error::format(manifest, format!("lists the file {:?} where {:?} belongs", e.name, l.name))),
        None => Ok(()),
    }
}

fn open_file(store: &Store, layout: FileLayout) -> Result<StoreFile> {
    let entry = &store.manifest.files[store.files.len()];
    let path = store.path.join(&layout.name);
    let mut file = open_regular(&path)?;
    let size = file.metadata().map_err(|e| Error::io("reading", &path, e))?.len();
    if size < entry.bytes {
        return Err(Error::Truncated { path, size, what: "the manifest".into(), end: entry.bytes });
    }
    let header = read_header_from(&mut file, size, &path)?;
    check_header(&path, &header, entry, &layout)?;
    let declared = declared(&path, &header)?;
    check_declared(&declared, &store.manifest, &layout).map_err(|e| Error::format(&path, e))?;
    let vectors = vector_index(&header, &declared);
    Ok(StoreFile { path, file: Arc::new(file), layout, declared, bytes: size, vectors })
}

fn check_header(path: &Path, header: &Header, entry: &FileEntry, layout: &FileLayout) -> Result<()> {
    check_tensors(header, layout).map_err(|e| Error::format(path, e))?;
    match digest(&header.raw) == entry.digest {
        true => Ok(()),
        false => Err(Error::format(
            path,
            "the header does not match the manifest's digest: the file is damaged or from another store",
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
                "tensor {:?} ({} {:?} at {}) stands where the layout has {:?} ({} {:?} at {})",
                have.name,
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
        .map_err(|e| Error::format(path, format!("the header's m2cache metadata breaks its schema: {e}")))
}

fn check_declared(declared: &Declared, manifest: &Manifest, layout: &FileLayout) -> std::result::Result<(), String> {
    let mut want = Declared::new(manifest.architecture.hidden, manifest.encoding.coding, layout);
    let digests = declared.sections.iter().zip(&mut want.sections).map(|(d, w)| w.digest.clone_from(&d.digest)).count();
    let vectors = declared.vectors.iter().zip(&mut want.vectors).map(|(d, w)| w.digest.clone_from(&d.digest)).count();
    match *declared == want && digests == want.sections.len() && vectors == want.vectors.len() {
        true => Ok(()),
        false => Err("the header declares sections that the manifest's architecture and encoding do not have".into()),
    }
}

fn vector_index(header: &Header, declared: &Declared) -> HashMap<String, (u64, String)> {
    let begin: HashMap<&str, u64> = header.tensors.iter().map(|t| (t.name.as_str(), t.begin)).collect();
    declared.vectors.iter().map(|v| (v.name.clone(), (begin[v.name.as_str()], v.digest.clone()))).collect()
}

fn header_len(file: &StoreFile) -> u64 {
    let data: u64 = file.layout.tensors().last().map_or(0, |t| t.begin + t.bytes);
    file.bytes - 8 - data
}
