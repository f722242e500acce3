//! One tile of records on its way from source weights to the bytes of sections.

use super::layout::{FileLayout, SectionLayout};
use crate::config::Encoding;
use crate::error::{Error, Result};
use crate::quant::encode_record;
use crate::types::Matrix;
use half::{bf16, f16};
use rayon::prelude::*;

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

/// The sections that hold the given matrices; all matrices of each must be there.
pub fn sections_of<'a>(layout: &'a FileLayout, rows: &[(Matrix, RawRows)]) -> Result<Vec<(usize, &'a SectionLayout)>> {
    let given = |m: Matrix| rows.iter().any(|(have, _)| *have == m);
    let touched: Vec<_> =
        layout.sections.iter().enumerate().filter(|(_, s)| s.parts.iter().any(|(m, _)| given(*m))).collect();
    let missing = touched.iter().flat_map(|(_, s)| &s.parts).find(|(m, _)| !given(*m));
    match (touched.is_empty(), missing) {
        (true, _) => Err(Error::usage(format!("{} takes no records of these matrices", layout.name))),
        (_, Some((m, _))) => Err(Error::usage(format!(
            "records of {} share a section with the given matrices; pass them together",
            m.name()
        ))),
        _ => Ok(touched),
    }
}

/// Records in the tile, if it fits the sections it goes to.
pub fn check_tile(
    first: usize,
    rows: &[(Matrix, RawRows)],
    width: usize,
    scale: Option<&[f32]>,
    sections: &[(usize, &SectionLayout)],
) -> Result<usize> {
    let section = sections[0].1;
    if let Some((_, other)) = sections.iter().find(|(_, s)| s.records != section.records) {
        return Err(Error::usage(format!("{} and {} do not share records", section.name, other.name)));
    }
    let count = rows[0].1.len() / width;
    if rows.iter().any(|(_, r)| r.len() != count * width) || scale.is_some_and(|s| s.len() != width) {
        return Err(Error::usage(format!(
            "every matrix of a tile is [T, {width}] with the same T, and a column scale has {width} values"
        )));
    }
    let end = first.saturating_add(count);
    let aligned = first.is_multiple_of(section.check) && (end.is_multiple_of(section.check) || end == section.records);
    match count > 0 && end <= section.records && aligned {
        true => Ok(count),
        false => Err(Error::usage(format!(
            "records {first}..{end} are no tile of {} records cut at multiples of {}",
            section.records, section.check
        ))),
    }
}

/// One call's worth of records.
pub struct Tile<'a> {
    pub encoding: &'a Encoding,
    pub width: usize,
    pub first: usize,
    pub rows: &'a [(Matrix, RawRows<'a>)],
    pub column_scale: Option<&'a [f32]>,
    pub sections: &'a [(usize, &'a SectionLayout)],
}

impl Tile<'_> {
    fn row_bytes(&self) -> usize {
        self.sections.iter().map(|(_, s)| s.stride).sum()
    }

    /// All records of the tile, each with its sections behind each other.
    pub fn encode(&self, count: usize) -> Result<(Vec<u8>, u64)> {
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
        let mut planes: Vec<Vec<u8>> =
            self.encoding.stored().iter().map(|p| vec![0; coding.plane_bytes(*p, self.width)]).collect();
        let mut views: Vec<&mut [u8]> = planes.iter_mut().map(Vec::as_mut_slice).collect();
        let zeros = encode_record(coding, weights, &mut views).map_err(|e| Error::Weight {
            tensor: matrix.name().into(),
            row: self.first + r,
            group: e.group,
            why: e.why,
        })?;
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
    pub fn gather(&self, bytes: &[u8], at: usize, count: usize) -> Vec<u8> {
        let begin: usize = self.sections[..at].iter().map(|(_, s)| s.stride).sum();
        let stride = self.sections[at].1.stride;
        let mut out = Vec::with_capacity(count * stride);
        for row in bytes.chunks_exact(self.row_bytes()) {
            out.extend_from_slice(&row[begin..begin + stride]);
        }
        out
    }
}
