//! Weights of some records as numbers, apart from the kernels and their cache: for statistics and predictors.

use super::catalog::SectionId;
use super::open::Store;
use crate::error::{Error, Result};
use crate::quant::{PlaneView, Record, Rows, values};
use crate::types::{BLOCK, Level, Matrix, Plane};
use rayon::prelude::*;
use std::ops::Range;

impl Store {
    /// Records of a matrix at a level, `[records, hidden]`; `layer` is none for embedding and head. What is read is
    /// compared with its checksums.
    ///
    /// # Errors
    /// `Error::Usage` for records that there are not, or whose plane is not stored; those of reading.
    pub fn weights(
        &self,
        layer: Option<usize>,
        matrix: Matrix,
        records: Range<usize>,
        level: Level,
    ) -> Result<Vec<f32>> {
        self.check_range(layer, matrix, &records)?;
        let planes = level.planes().iter().map(|plane| self.read_plane(layer, matrix, *plane, &records));
        let read: Vec<(Vec<u8>, usize, usize)> = planes.collect::<Result<_>>()?;
        let mut views = [PlaneView::EMPTY; 3];
        for (view, (bytes, stride, offset)) in views.iter_mut().zip(&read) {
            *view = PlaneView::of(bytes, *stride, *offset);
        }
        let (coding, width) = (self.manifest.encoding.coding, self.manifest.architecture.hidden);
        Ok(decoded(&Rows { coding, level, width, records: records.len(), planes: views }))
    }

    fn check_range(&self, layer: Option<usize>, matrix: Matrix, records: &Range<usize>) -> Result<()> {
        let name = matrix.name();
        let Some((id, _)) = self.catalog().slice(layer, (matrix, Plane::Base)) else {
            let place = layer.map_or("the ends".into(), |layer| format!("layer {layer}"));
            return Err(Error::usage(format!("{} of {} has no matrix {name}", place, self.path.display())));
        };
        let have = self.section(id).layout.records;
        match records.start <= records.end && records.end <= have {
            true => Ok(()),
            false => Err(Error::usage(format!("records {records:?} of {name}, which has {have}"))),
        }
    }

    /// Whole records of the section that holds a plane, with their stride and where the plane begins in them.
    fn read_plane(
        &self,
        layer: Option<usize>,
        matrix: Matrix,
        plane: Plane,
        records: &Range<usize>,
    ) -> Result<(Vec<u8>, usize, usize)> {
        let (id, offset) = self.slice(layer, matrix, plane)?;
        let stride = self.section(id).layout.stride;
        Ok((self.sound(id, records)?, stride, offset))
    }

    /// Some records of a section, read with the rest of their checksums' units and compared.
    pub(super) fn sound(&self, id: SectionId, records: &Range<usize>) -> Result<Vec<u8>> {
        let section = self.section(id);
        let (unit, stride) = (section.layout.check, section.layout.stride);
        let first = records.start / unit * unit;
        let end = records.end.next_multiple_of(unit).min(section.layout.records);
        let mut bytes = vec![0; (end - first) * stride];
        if !bytes.is_empty() {
            self.read_at(section.file, section.begin + (first * stride) as u64, &mut bytes)?;
            self.check_records(id, first, &bytes, false)?;
        }
        bytes.truncate((records.end - first) * stride);
        bytes.drain(..(records.start - first) * stride);
        Ok(bytes)
    }
}

fn decoded(rows: &Rows) -> Vec<f32> {
    let mut out = vec![0f32; rows.records * rows.width];
    let each = out.par_chunks_mut(rows.width).enumerate();
    each.for_each(|(r, out)| decode(rows, &rows.record(r), out));
    out
}

fn decode(rows: &Rows, record: &Record, out: &mut [f32]) {
    let mut block = [0f32; BLOCK];
    for (index, out) in out.chunks_mut(BLOCK).enumerate() {
        values(&rows.coding, rows.level, record, index, &mut block);
        out.copy_from_slice(&block[..out.len()]);
    }
}
