//! What a file's header declares beyond the container: enough for a reader that knows no architecture.

use super::header::render;
use super::layout::FileLayout;
use crate::config::{Coding, Slice};
use serde::{Deserialize, Serialize};

/// What a file's `__metadata__.m2cache` says: enough for a reader that knows no architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// Format version.
    pub version: u32,
    /// Weights per record.
    pub width: usize,
    /// How they are coded.
    pub coding: Coding,
    /// Sections in file order.
    pub sections: Vec<DeclaredSection>,
    /// Vectors in file order.
    pub vectors: Vec<DeclaredVector>,
}

/// A section as a header declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredSection {
    /// Tensor name.
    pub name: String,
    /// Matrices and planes of a record, in order.
    pub parts: Vec<Slice>,
    /// Records.
    pub records: usize,
    /// Bytes of a record that mean something.
    pub payload: usize,
    /// Bytes from record to record.
    pub stride: usize,
    /// Records under one checksum.
    pub check: usize,
    /// xxh3-128 of the checksum table.
    pub digest: String,
}

/// A vector as a header declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredVector {
    /// Tensor name.
    pub name: String,
    /// xxh3-128 of its bytes.
    pub digest: String,
}

impl Declared {
    /// What a file of this layout declares, digests still zero.
    pub fn new(width: usize, coding: Coding, layout: &FileLayout) -> Declared {
        let blank = || "0".repeat(32);
        let sections = layout.sections.iter().map(|s| DeclaredSection {
            name: s.name.clone(),
            parts: s.parts.clone(),
            records: s.records,
            payload: s.payload,
            stride: s.stride,
            check: s.check,
            digest: blank(),
        });
        let vectors = layout.vectors.iter().map(|v| DeclaredVector { name: v.name.clone(), digest: blank() });
        Declared {
            version: super::FORMAT_VERSION,
            width,
            coding,
            sections: sections.collect(),
            vectors: vectors.collect(),
        }
    }

    /// The one header that a file of this layout with these digests has.
    pub fn header(&self, layout: &FileLayout) -> Vec<u8> {
        render(&layout.tensors(), &serde_json::json!(self).to_string())
    }
}
