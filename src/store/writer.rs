//! Writing a store tile by tile: sizes are known up front, checksums are taken on the way, the header goes in last.

use super::header::render;
use super::layout::{FileLayout, SectionLayout, TensorLayout, files};
use super::manifest::{FileEntry, MANIFEST, Manifest, digest};
use super::open::Declared;
use crate::config::{Architecture, Encoding};
use crate::error::{Error, Result};
use crate::quant::encode_record;
use crate::types::{BLOCK, Matrix};
use half::{bf16, f16};
use rayon::prelude::*;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Source weights of one matrix, records as rows.
#[derive(Clone, Copy, Debug)]
pub enum RawRows<'a> {
    /// bfloat16 bit patterns.
    Bf16(&'a [u16]),
    /// IEEE half bit patterns.
    F16(&'a [u16]),
    /// Single precision.
    F32(&'a [f32]),
}

impl RawRows<'_> {
    fn len(&self) -> usize {
        match self {
            RawRows::Bf16(v) | RawRows::F16(v) => v.len(),
            RawRows::F32(v) => v.len(),
        }
    }

    fn row(&self, r: usize, out: &mut [f32]) {
        let range = r * out.len()..(r + 1) * out.len();
        match self {
            RawRows::Bf16(v) => out.iter_mut().zip(&v[range]).for_each(|(o, b)| *o = bf16::from_bits(*b).to_f32()),
            RawRows::F16(v) => out.iter_mut().zip(&v[range]).for_each(|(o, b)| *o = f16::from_bits(*b).to_f32()),
            RawRows::F32(v) => out.copy_from_slice(&v[range]),
        }
    }
}

/// Writes the files of one store into a directory.
#[derive(Debug)]
pub struct StoreWriter {
    directory: PathBuf,
    architecture: Architecture,
    encoding: Encoding,
    files: Vec<FileLayout>,
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
    /// A writer into an existing directory.
    ///
    /// # Errors
    /// `Error::Usage` when architecture or encoding break a rule.
    pub fn new(directory: &Path, architecture: Architecture, encoding: Encoding) -> Result<StoreWriter> {
        architecture.validate().map_err(Error::Usage)?;
        encoding.validate(&architecture).map_err(Error::Usage)?;
        let files = files(&architecture, &encoding);
        Ok(StoreWriter { directory: directory.into(), architecture, encoding, files, open: None, done: HashMap::new() })
    }

    /// Names and exact sizes in bytes.
    pub fn sizes(&self) -> Vec<(String, u64)> {
        self.files.iter().map(|f| (f.name.clone(), self.file_bytes(f))).collect()
    }

    fn file_bytes(&self, layout: &FileLayout) -> u64 {
        let data = layout.tensors().last().map_or(0, |t| t.begin + t.bytes);
        self.blank_header(layout).len() as u64 + data
    }

    fn blank_header(&self, layout: &FileLayout) -> Vec<u8> {
        render(&layout.tensors(), &declared_text(&self.declared(layout)))
    }

    fn declared(&self, layout: &FileLayout) -> Declared {
        Declared::new(self.architecture.hidden, self.encoding.coding, layout)
    }

    /// Starts one file, truncating what an earlier attempt left; its disk space is taken now.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        let index = self.files.iter().position(|f| f.name == name)
            .ok_or_else(|| Error::usage(format!("the store has no file {name:?}")))?;
        let layout = &self.files[index];
        let path = self.directory.join(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)
            .map_err(|e| Error::io("creating", &path, e))?;
        reserve(&file, self.file_bytes(layout)).map_err(|e| Error::io("reserving space for", &path, e))?;
        let tensors = layout.tensors().into_iter().map(|t| (t.name.clone(), t)).collect();
        let sums = layout.sections.iter().map(|s| vec![None; s.checks()]).collect();
        let header = self.blank_header(layout).len() as u64;
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
            return Err(Error::Weight { tensor: name.into(), row: 0, group: bad / BLOCK, why: "a value is not finite" });
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
        let count = check_tile(first, rows, width, column_scale, sections[0].1)?;
        let tile = Tile { encoding: &encoding, width, first, rows, column_scale, sections: &sections };
        let (bytes, zeros) = tile.encode(count)?;
        for (at, (index, section)) in sections.iter().enumerate() {
            open.write_records(*index, section, first, &tile.gather(&bytes, at, count))?;
        }
        open.zeros += zeros;
        Ok(zeros)
    }

    /// Completes the open file: checksum tables, header, fsync.
    pub fn end(&mut self) -> Result<FileEntry> {
        let mut open = self.open.take().ok_or_else(|| Error::usage("no file of the store is open; call begin first"))?;
        let layout = &self.files[open.index];
        open.write_tables(layout)?;
        let header = open.write_header(layout)?;
        open.file.sync_all().map_err(|e| Error::io("syncing", &open.path, e))?;
        let entry = FileEntry {
            name: layout.name.clone(), bytes: self.file_bytes(layout), digest: digest(&header),
            weights: layout.weights(self.architecture.hidden), zeros: open.zeros,
        };
        self.done.insert(entry.name.clone(), entry.clone());
        Ok(entry)
    }

    /// Takes over a file that an interrupted run finished; false when it is not there as the entry says.
    pub fn adopt(&mut self, entry: FileEntry) -> bool {
        let path = self.directory.join(&entry.name);
        let known = self.files.iter().any(|f| f.name == entry.name && self.file_bytes(f) == entry.bytes);
        let sound = known && super::header::read_header(&path).is_ok_and(|h| digest(&h.raw) == entry.digest);
        if sound {
            self.done.insert(entry.name.clone(), entry);
        }
        sound
    }

    /// Writes the manifest and returns the store's id; `fill` sets what the writer cannot know.
    pub fn finish(&mut self, fill: impl FnOnce(&mut Manifest) -> Result<()>) -> Result<String> {
        let missing = self.files.iter().find(|f| !self.done.contains_key(&f.name));
        if let Some(file) = missing {
            return Err(Error::usage(format!("{} is not written yet", file.name)));
        }
        let entries = self.files.iter().map(|f| self.done[&f.name].clone()).collect();
        let mut manifest = Manifest::new(self.architecture.clone(), self.encoding.clone(), entries);
        fill(&mut manifest)?;
        manifest.id = manifest.compute_id();
        write_manifest(&self.directory, &manifest)?;
        Ok(manifest.id)
    }

    /// Where the store is being written.
    pub fn directory(&self) -> &Path {
        &self.directory
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
        for (slot, sum) in self.sums[index][begin..].iter_mut().zip(sums) {
            *slot = Some(sum);
        }
        self.write(&self.tensors[&section.name], (first * section.stride) as u64, bytes)
    }

    fn write_tables(&mut self, layout: &FileLayout) -> Result<()> {
        for (index, section) in layout.sections.iter().enumerate() {
            let sums: Option<Vec<u64>> = self.sums[index].iter().copied().collect();
            let Some(sums) = sums else {
                return Err(Error::usage(format!("{}: section {} has records that were never written", layout.name, section.name)));
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
        let header = render(&layout.tensors(), &declared_text(&self.declared));
        self.file.write_all_at(&header, 0).map_err(|e| Error::io("writing", &self.path, e))?;
        Ok(header)
    }
}

fn declared_text(declared: &Declared) -> String {
    serde_json::json!(declared).to_string()
}

/// The sections that hold the given matrices; all matrices of each must be there.
fn sections_of<'a>(layout: &'a FileLayout, rows: &[(Matrix, RawRows)]) -> Result<Vec<(usize, &'a SectionLayout)>> {
    let given = |m: Matrix| rows.iter().any(|(have, _)| *have == m);
    let touched: Vec<_> = layout.sections.iter().enumerate().filter(|(_, s)| s.parts.iter().any(|(m, _)| given(*m))).collect();
    let missing = touched.iter().flat_map(|(_, s)| &s.parts).find(|(m, _)| !given(*m));
    match (touched.is_empty(), missing) {
        (true, _) => Err(Error::usage(format!("{} takes no records of these matrices", layout.name))),
        (_, Some((m, _))) => Err(Error::usage(format!("records of {} share a section with the given matrices; pass them together", m.name()))),
        _ => Ok(touched),
    }
}

fn check_tile(first: usize, rows: &[(Matrix, RawRows)], width: usize, scale: Option<&[f32]>, section: &SectionLayout) -> Result<usize> {
    let count = rows[0].1.len() / width;
    if rows.iter().any(|(_, r)| r.len() != count * width) || scale.is_some_and(|s| s.len() != width) {
        return Err(Error::usage(format!("every matrix of a tile is [T, {width}] with the same T, and a column scale has {width} values")));
    }
    let end = first + count;
    let aligned = first.is_multiple_of(section.check) && (end.is_multiple_of(section.check) || end == section.records);
    match count > 0 && end <= section.records && aligned {
        true => Ok(count),
        false => Err(Error::usage(format!("records {first}..{end} are no tile of {} records cut at multiples of {}", section.records, section.check))),
    }
}

/// One call's worth of records.
struct Tile<'a> {
    encoding: &'a Encoding,
    width: usize,
    first: usize,
    rows: &'a [(Matrix, RawRows<'a>)],
    column_scale: Option<&'a [f32]>,
    sections: &'a [(usize, &'a SectionLayout)],
}

impl Tile<'_> {
    fn row_bytes(&self) -> usize {
        self.sections.iter().map(|(_, s)| s.stride).sum()
    }

    /// All records of the tile, each with its sections behind each other.
    fn encode(&self, count: usize) -> Result<(Vec<u8>, u64)> {
        let mut bytes = vec![0u8; count * self.row_bytes()];
        let zeros = bytes.par_chunks_mut(self.row_bytes()).enumerate().map(|(r, out)| self.encode_row(r, out));
        let zeros: u64 = zeros.try_reduce(|| 0, |a, b| Ok(a + b))?;
        Ok((bytes, zeros))
    }

    fn encode_row(&self, r: usize, out: &mut [u8]) -> Result<u64> {
        let mut weights = vec![0f32; self.width];
        let mut zeros = 0;
        for (matrix, raw) in self.rows {
            raw.row(r, &mut weights);
            if let (Some(scale), true) = (self.column_scale, *matrix != Matrix::Down) {
                weights.iter_mut().zip(scale).for_each(|(w, s)| *w *= s);
            }
            zeros += self.encode_matrix(*matrix, r, &weights, out)?;
        }
        Ok(zeros)
    }

    fn encode_matrix(&self, matrix: Matrix, r: usize, weights: &[f32], out: &mut [u8]) -> Result<u64> {
        let coding = &self.encoding.coding;
        let mut planes: Vec<Vec<u8>> = self.encoding.stored().iter().map(|p| vec![0; coding.plane_bytes(*p, self.width)]).collect();
        let mut views: Vec<&mut [u8]> = planes.iter_mut().map(Vec::as_mut_slice).collect();
        let zeros = encode_record(coding, weights, &mut views)
            .map_err(|e| Error::Weight { tensor: matrix.name().into(), row: self.first + r, group: e.group, why: e.why })?;
        let mut begin = 0;
        for (_, section) in self.sections {
            for (plane, bytes) in self.encoding.stored().iter().zip(&planes) {
                if let Some(at) = section.part_offset(self.encoding, self.width, (matrix, *plane)) {
                    out[begin + at..begin + at + bytes.len()].copy_from_slice(bytes);
                }
            }
            begin += section.stride;
        }
        Ok(zeros as u64)
    }

    /// The tile's records of one section, contiguous as the file has them.
    fn gather(&self, bytes: &[u8], at: usize, count: usize) -> Vec<u8> {
        let begin: usize = self.sections[..at].iter().map(|(_, s)| s.stride).sum();
        let stride = self.sections[at].1.stride;
        let mut out = Vec::with_capacity(count * stride);
        for row in bytes.chunks_exact(self.row_bytes()) {
            out.extend_from_slice(&row[begin..begin + stride]);
        }
        out
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

fn write_manifest(directory: &Path, manifest: &Manifest) -> Result<()> {
    let (path, temporary) = (directory.join(MANIFEST), directory.join("m2cache.json.tmp"));
    let text = serde_json::json!(manifest);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(format!("{text:#}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|e| Error::io("writing", &path, e))
}
