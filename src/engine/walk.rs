//! Walks: how the records of a matrix, or of an FFN's matrices together, are gone through chunk by chunk.

use crate::error::{Error, Result};
use crate::store::{Catalog, SectionId};
use crate::types::{CHUNK, Level, Matrix, Plane};
use std::ops::Range;

/// Walks of a layer: q, k, v, o, and the FFN.
pub(super) const WALKS: usize = 5;

/// A walk of the schedule, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkId(pub(super) usize);

/// Matrices whose records are walked through together, chunk by chunk: one matrix, or those of an FFN.
#[derive(Clone, Debug)]
pub struct Walk {
    /// What they are read at.
    pub level: Level,
    /// All that the level reads of them.
    pub sections: Vec<SectionId>,
    /// Records of each.
    pub records: usize,
    /// Where their planes lie.
    matrices: Vec<(Matrix, Vec<PlaneAt>)>,
    /// What they are, for the counters: attn, ffn, head.
    pub(super) part: &'static str,
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

impl WalkId {
    /// Of a matrix of a layer.
    ///
    /// # Errors
    /// `Error::Internal` for the embedding and the head, which are of no layer.
    pub fn of(layer: usize, matrix: Matrix) -> Result<WalkId> {
        let walk = match matrix {
            Matrix::Q => 0,
            Matrix::K => 1,
            Matrix::V => 2,
            Matrix::O => 3,
            Matrix::Gate | Matrix::Up | Matrix::Down => 4,
            Matrix::Embed | Matrix::Head => return Err(Error::Internal("a walk of a layer for a matrix of none")),
        };
        Ok(WalkId(layer * WALKS + walk))
    }
}

impl Walk {
    /// Of some matrices at a level; its steps begin at 0.
    ///
    /// # Errors
    /// `Error::Usage` when a plane of the level is not stored.
    pub fn new(catalog: &Catalog, layer: Option<usize>, matrices: &[Matrix], level: Level) -> Result<Walk> {
        let sections = sections(catalog, layer, matrices, level)?;
        let planes = |matrix: &Matrix| Ok((*matrix, planes(catalog, &sections, layer, *matrix, level)?));
        let matrices: Vec<_> = matrices.iter().map(planes).collect::<Result<_>>()?;
        let records = catalog.section(sections[0]).records;
        Ok(Walk { level, records, part: part(matrices[0].0, layer), sections, matrices, first: 0 })
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

    /// Where the planes of one of its matrices lie, coarsest first.
    ///
    /// # Errors
    /// `Error::Internal` for a matrix that is not of this walk.
    pub fn planes(&self, matrix: Matrix) -> Result<&[PlaneAt]> {
        let found = self.matrices.iter().find(|(of, _)| *of == matrix);
        found.map(|(_, planes)| planes.as_slice()).ok_or(Error::Internal("a matrix that was not leased"))
    }
}

fn part(matrix: Matrix, layer: Option<usize>) -> &'static str {
    match (matrix, layer) {
        (Matrix::Q | Matrix::K | Matrix::V | Matrix::O, _) => "attn",
        (_, Some(_)) => "ffn",
        (_, None) => "head",
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

/// The sections that hold some matrices up to their level, each once.
fn sections(catalog: &Catalog, layer: Option<usize>, matrices: &[Matrix], level: Level) -> Result<Vec<SectionId>> {
    let mut ids = Vec::new();
    for plane in level.planes() {
        for matrix in matrices {
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
