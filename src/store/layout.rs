//! Layout arithmetic: which file holds what, where. Everything follows from the architecture and the encoding, so the
//! writer knows every size before the first byte and the reader can refuse whatever differs.

use crate::config::{Architecture, Encoding, Slice};
use crate::types::{BLOCK, Matrix, Plane};
use serde::Serialize;

/// Sections begin on a page, so that O_DIRECT and mmap can take them as they are.
pub const PAGE: u64 = 4096;
/// Strides are whole cache lines.
const LINE: usize = 64;
/// Records under one checksum where records are read in sweeps (attention, untied head).
const SWEEP_CHECK: usize = 64;

/// A named f32 vector (norm gain or bias).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VectorLayout {
    /// `norm.attn`, `norm.ffn`, `norm.final`, `bias.q`, ...
    pub name: String,
    /// Elements.
    pub len: usize,
}

/// Records of some matrices in some planes, stored together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SectionLayout {
    /// Slices joined by `+`: `gate.base+up.base`.
    pub name: String,
    /// What a record holds, in order.
    pub parts: Vec<Slice>,
    /// Records.
    pub records: usize,
    /// Bytes of a record that mean something.
    pub payload: usize,
    /// Bytes from record to record.
    pub stride: usize,
    /// Records under one checksum.
    pub check: usize,
}

impl SectionLayout {
    fn new(arch: &Architecture, encoding: &Encoding, parts: &[Slice], check: usize) -> SectionLayout {
        let payload = parts.iter().map(|(_, p)| encoding.coding.plane_bytes(*p, arch.hidden)).sum();
        let name = parts.iter().map(|(m, p)| format!("{}.{}", m.name(), p.name())).collect::<Vec<_>>().join("+");
        let records = arch.records(parts[0].0);
        SectionLayout {
            name,
            parts: parts.to_vec(),
            records,
            payload,
            stride: usize::next_multiple_of(payload, LINE),
            check,
        }
    }

    /// Bytes of all records.
    pub fn bytes(&self) -> u64 {
        self.records as u64 * self.stride as u64
    }

    /// Checksums in the section's table.
    pub fn checks(&self) -> usize {
        self.records.div_ceil(self.check)
    }

    /// Where a slice begins in a record, if the section holds it.
    pub fn part_offset(&self, encoding: &Encoding, width: usize, slice: Slice) -> Option<usize> {
        let at = self.parts.iter().position(|p| *p == slice)?;
        Some(self.parts[..at].iter().map(|(_, p)| encoding.coding.plane_bytes(*p, width)).sum())
    }
}

/// One file of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileLayout {
    /// File name inside the store.
    pub name: String,
    /// Layer it belongs to, or none for embedding, head and final norm.
    pub layer: Option<usize>,
    /// Small f32 tensors.
    pub vectors: Vec<VectorLayout>,
    /// Sections in file order.
    pub sections: Vec<SectionLayout>,
}

/// A tensor of a store file as the safetensors header has to declare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorLayout {
    /// Name.
    pub name: String,
    /// `U64`, `F32` or `U8`.
    pub dtype: &'static str,
    /// Shape.
    pub shape: Vec<usize>,
    /// First byte behind the header.
    pub begin: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// File `index` of a store: the layers, then `embed.safetensors`.
pub fn file(arch: &Architecture, encoding: &Encoding, index: usize) -> FileLayout {
    if index < arch.layers { layer_file(arch, encoding, index) } else { embed_file(arch, encoding) }
}

/// All files of a store.
pub fn files(arch: &Architecture, encoding: &Encoding) -> Vec<FileLayout> {
    (0..=arch.layers).map(|index| file(arch, encoding, index)).collect()
}

fn layer_file(arch: &Architecture, encoding: &Encoding, layer: usize) -> FileLayout {
    let mut vectors: Vec<VectorLayout> =
        ["norm.attn", "norm.ffn"].iter().map(|n| VectorLayout { name: (*n).into(), len: arch.hidden }).collect();
    vectors.extend(
        arch.biases.iter().map(|m| VectorLayout { name: format!("bias.{}", m.name()), len: bias_len(arch, *m) }),
    );
    let attention = [Matrix::Q, Matrix::K, Matrix::V, Matrix::O];
    let mut sections: Vec<SectionLayout> = encoding
        .stored()
        .iter()
        .flat_map(|p| attention.map(|m| SectionLayout::new(arch, encoding, &[(m, *p)], SWEEP_CHECK)))
        .collect();
    sections.extend(encoding.ffn_sections.iter().map(|parts| SectionLayout::new(arch, encoding, parts, 1)));
    FileLayout { name: format!("layer-{layer:05}.safetensors"), layer: Some(layer), vectors, sections }
}

fn embed_file(arch: &Architecture, encoding: &Encoding) -> FileLayout {
    let single = |m: Matrix, check: usize| {
        encoding.stored().iter().map(move |p| SectionLayout::new(arch, encoding, &[(m, *p)], check))
    };
    let mut sections: Vec<SectionLayout> = single(Matrix::Embed, 1).collect();
    if !arch.tied {
        sections.extend(single(Matrix::Head, SWEEP_CHECK));
    }
    let vectors = vec![VectorLayout { name: "norm.final".into(), len: arch.hidden }];
    FileLayout { name: "embed.safetensors".into(), layer: None, vectors, sections }
}

/// A bias is as long as the matrix's output.
fn bias_len(arch: &Architecture, matrix: Matrix) -> usize {
    match matrix {
        Matrix::O | Matrix::Down => arch.hidden,
        m => arch.records(m),
    }
}

impl FileLayout {
    /// Every tensor in file order: checksum tables, vectors, filler, then sections, each brought to a page by filler
    /// (the container allows no holes).
    pub fn tensors(&self) -> Vec<TensorLayout> {
        let mut out = Tensors::default();
        for s in &self.sections {
            out.push(format!("xxh3.{}", s.name), "U64", vec![s.checks()], 8);
        }
        for v in &self.vectors {
            out.push(v.name.clone(), "F32", vec![v.len], 4);
        }
        for s in &self.sections {
            out.fill_page();
            out.push(s.name.clone(), "U8", vec![s.records, s.stride], 1);
        }
        out.fill_page();
        out.list
    }

    /// Bytes behind the header.
    pub fn data_bytes(&self) -> u64 {
        self.tensors().last().map_or(0, |t| t.begin + t.bytes)
    }

    /// Weights the file's sections code.
    pub fn weights(&self, width: usize) -> u64 {
        let base =
            self.sections.iter().flat_map(|s| s.parts.iter().filter(|(_, p)| *p == Plane::Base).map(|_| s.records));
        base.map(|records| records as u64 * width as u64).sum()
    }
}

#[derive(Default)]
struct Tensors {
    list: Vec<TensorLayout>,
    at: u64,
    fillers: usize,
}

impl Tensors {
    fn push(&mut self, name: String, dtype: &'static str, shape: Vec<usize>, item: u64) {
        let bytes = shape.iter().map(|n| *n as u64).product::<u64>() * item;
        self.list.push(TensorLayout { name, dtype, shape, begin: self.at, bytes });
        self.at += bytes;
    }

    fn fill_page(&mut self) {
        let gap = self.at.next_multiple_of(PAGE) - self.at;
        if gap > 0 {
            self.push(format!("filler.{}", self.fillers), "U8", vec![gap as usize], 1);
            self.fillers += 1;
        }
    }
}

const _: () = assert!(SWEEP_CHECK.is_multiple_of(BLOCK) && crate::types::CHUNK.is_multiple_of(SWEEP_CHECK));
