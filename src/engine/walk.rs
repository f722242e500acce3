//! Walks: how the records of a matrix, or of an FFN's matrices together, are gone through chunk by chunk.

use crate::error::{Error, Result};
use crate::store::{Catalog, SectionId};
use crate::types::{CHUNK, Level, Matrix, Plane};
use std::ops::Range;

/// What of a layer is walked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// q, k, v or o.
    Attention(Matrix),
    /// Every neuron at a level, for tokens whose FFN is dense.
    Ffn(Level),
    /// What of every neuron gives its score at a level, or proves it to be off.
    Scan(Level),
    /// What the chunks that have active neurons need beside.
    Rest,
}

/// A walk of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkId {
    /// Of a layer.
    Layer(usize, Part),
    /// The head's.
    Head,
}

/// Matrices whose records are walked through together, chunk by chunk: one matrix, or those of an FFN.
#[derive(Clone, Debug)]
pub struct Walk {
    /// All that is read of them.
    pub sections: Vec<SectionId>,
    /// Records of each.
    pub records: usize,
    /// Where their planes lie.
    matrices: Vec<(Matrix, Vec<PlaneAt>)>,
    /// The first step.
    pub(super) first: usize,
}

/// Where a plane of a matrix lies in the sections of its walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneAt {
    /// Which of them.
    pub section: usize,
    /// Bytes from record to record.
    pub stride: usize,
    /// Where it begins in a record.
    pub offset: usize,
}

impl Walk {
    /// Of some matrices, each at its level; its steps begin at 0.
    ///
    /// # Errors
    /// `Error::Usage` when a plane of a level is not stored.
    pub fn new(catalog: &Catalog, layer: Option<usize>, matrices: &[(Matrix, Level)]) -> Result<Walk> {
        let sections = sections(catalog, layer, matrices)?;
        let planes =
            |(matrix, level): &(Matrix, Level)| Ok((*matrix, planes(catalog, &sections, layer, *matrix, *level)?));
        let matrices: Vec<_> = matrices.iter().map(planes).collect::<Result<_>>()?;
        let records = catalog.section(sections[0]).records;
        Ok(Walk { records, sections, matrices, first: 0 })
    }

    /// Its chunks.
    pub fn chunks(&self) -> usize {
        self.records.div_ceil(CHUNK)
    }

    /// Its steps.
    pub fn steps(&self) -> Range<usize> {
        self.first..self.first + self.chunks()
    }

    /// Records of a chunk.
    pub fn chunk(&self, chunk: usize) -> Range<usize> {
        chunk * CHUNK..self.records.min((chunk + 1) * CHUNK)
    }

    /// Its matrices' planes, and where they lie.
    pub fn parts(&self) -> impl Iterator<Item = (Matrix, Plane, &PlaneAt)> {
        self.matrices
            .iter()
            .flat_map(|(matrix, at)| Plane::ALL.into_iter().zip(at).map(|(plane, at)| (*matrix, plane, at)))
    }

    /// Where the planes of one of its matrices lie, coarsest first.
    ///
    /// # Errors
    /// `Error::Internal` for a matrix that is not of this walk.
    pub fn planes(&self, matrix: Matrix) -> Result<&[PlaneAt]> {
        let found = self.matrices.iter().find(|(of, _)| *of == matrix);
        found.map(|(_, planes)| planes.as_slice()).ok_or(Error::Internal("a matrix that was not leased"))
    }
}

/// Where the planes of a matrix lie in `sections`.
fn planes(
    catalog: &Catalog,
    sections: &[SectionId],
    layer: Option<usize>,
    matrix: Matrix,
    level: Level,
) -> Result<Vec<PlaneAt>> {
    let at = |plane: &Plane| {
        let (id, offset) = catalog.slice(layer, (matrix, *plane)).ok_or_else(|| not_stored(matrix, *plane))?;
        let section = sections.iter().position(|have| *have == id);
        let section = section.ok_or(Error::Internal("a plane outside the sections of its walk"))?;
        Ok(PlaneAt { section, stride: catalog.section(id).stride, offset })
    };
    level.planes().iter().map(at).collect()
}

/// The sections that hold some matrices up to their levels, each once: plane by plane.
fn sections(catalog: &Catalog, layer: Option<usize>, matrices: &[(Matrix, Level)]) -> Result<Vec<SectionId>> {
    let mut ids = Vec::new();
    for plane in &Plane::ALL {
        for (matrix, _) in matrices.iter().filter(|(_, level)| level.planes().contains(plane)) {
            let (id, _) = catalog.slice(layer, (*matrix, *plane)).ok_or_else(|| not_stored(*matrix, *plane))?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
    }
    Ok(ids)
}

fn not_stored(matrix: Matrix, plane: Plane) -> Error {
    Error::usage(format!(
        "the {} plane of {} is not stored: ask for a lower precision, or convert with --planes {}",
        plane.name(),
        matrix.name(),
        if plane == Plane::Low { "all" } else { "mid" }
    ))
}
