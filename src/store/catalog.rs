//! The sections of a store by number, known from its architecture and encoding before there is a file.

use super::layout::{FileLayout, SectionLayout, files};
use crate::config::{Architecture, Encoding, Slice};
use std::collections::HashMap;

/// A section of a store, counted over all files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionId(pub u32);

/// All sections, and where each matrix's planes lie.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    sections: Vec<SectionLayout>,
    slices: HashMap<(Option<usize>, Slice), (SectionId, usize)>,
}

impl Catalog {
    /// Of a whole store.
    pub fn new(arch: &Architecture, encoding: &Encoding) -> Catalog {
        let mut catalog = Catalog::default();
        files(arch, encoding).iter().for_each(|file| catalog.add(arch, encoding, file));
        catalog
    }

    /// Adds the next file's sections.
    pub(super) fn add(&mut self, arch: &Architecture, encoding: &Encoding, file: &FileLayout) {
        for layout in &file.sections {
            let id = SectionId(self.sections.len() as u32);
            for slice in &layout.parts {
                if let Some(offset) = layout.part_offset(encoding, arch.hidden, *slice) {
                    self.slices.insert((file.layer, *slice), (id, offset));
                }
            }
            self.sections.push(layout.clone());
        }
    }

    /// The section that holds a slice, and where in its records; `layer` is none for embedding and head.
    pub fn slice(&self, layer: Option<usize>, slice: Slice) -> Option<(SectionId, usize)> {
        self.slices.get(&(layer, slice)).copied()
    }

    /// A section's shape.
    pub fn section(&self, id: SectionId) -> &SectionLayout {
        &self.sections[id.0 as usize]
    }

    /// Sections in all.
    pub fn len(&self) -> usize {
        self.sections.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }
}
