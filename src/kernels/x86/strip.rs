//! What exact sums of many columns need of sixteen groups before their codes: cells of all records, terms of all columns.

use super::ahead::{self, Coming};
use super::load::{floats, store};
use super::pack::by_column;
use super::scales::{Cells, cells};
use super::terms::{Making, Terms};
use crate::kernels::columns::STRIP;
use crate::kernels::factors::Factors;
use crate::kernels::lanes::LANES;
use crate::kernels::work::Sums;
use crate::quant::Rows;
use crate::types::{BLOCK, CHUNK};

/// Records between a scale that is asked for and the one that is read.
pub const AHEAD: usize = 16;

/// Lines of the cache, since a register that straddles two costs twice.
#[repr(C, align(64))]
pub struct OfStrip {
    /// Cells of the groups and what code 0 decodes to, by record.
    widths: [[f32; LANES]; CHUNK],
    origins: [[f32; LANES]; CHUNK],
    /// Cells of every group, those behind the last record of another task.
    pub by_group: [[f32; CHUNK]; STRIP],
    /// Of every column and the groups.
    pub terms: Vec<Terms<LANES>>,
}

/// Bytes that this keeps for so many columns, beyond its own size.
pub fn kept(columns: usize) -> usize {
    columns * size_of::<Terms<LANES>>()
}

/// The lines of the codes of a strip from block `first` on: those of the next are asked for while one is multiplied.
pub fn coming<'a>(rows: &'a Rows, first: usize) -> Coming<'a> {
    Coming::new(rows, 0, first * BLOCK / 2, [STRIP / 2; 2])
}

impl OfStrip {
    pub const EMPTY: OfStrip = OfStrip {
        widths: [[0.0; LANES]; CHUNK],
        origins: [[0.0; LANES]; CHUNK],
        by_group: [[0.0; CHUNK]; STRIP],
        terms: vec![],
    };

    /// Of groups `first..`; `ask` is called at every record.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn take(&mut self, work: &Sums<Factors>, first: usize, mut ask: impl FnMut()) {
        let rows = work.rows;
        let of_records = self.widths.iter_mut().zip(&mut self.origins);
        for (r, (widths, origins)) in (0..rows.records).zip(of_records) {
            let scales = rows.scales(r);
            ahead::scales(rows, scales, first, ahead::records(rows, r, AHEAD));
            ask();
            let cells = cells(&rows.coding, rows.level, scales, first);
            store(widths, cells.width);
            store(origins, cells.origin);
        }
        self.put_terms(work);
        for (first, widths) in self.widths.as_chunks().0.iter().enumerate() {
            for (group, widths) in self.by_group.iter_mut().zip(by_column(widths)) {
                store(&mut group.as_chunks_mut().0[first], widths);
            }
        }
    }

    /// The terms of every column.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    fn put_terms(&mut self, work: &Sums<Factors>) {
        const AT_ONCE: usize = 8;
        let (columns, records) = (work.factors.columns, work.rows.records);
        self.terms.resize(columns, Terms::NONE);
        for (part, of_columns) in self.terms.chunks_mut(AT_ONCE).enumerate() {
            let mut of_part = [work.factors.column(0); AT_ONCE];
            for (n, column) in of_part.iter_mut().enumerate() {
                *column = work.factors.column((part * AT_ONCE + n).min(columns - 1));
            }
            let mut making = [Making::new(); AT_ONCE];
            for (r, (widths, origins)) in self.widths[..records].iter().zip(&self.origins).enumerate() {
                let cells = Cells { width: floats(widths), origin: floats(origins) };
                for (making, column) in making.iter_mut().zip(&of_part) {
                    making.take(column[r], &cells);
                }
            }
            of_columns.iter_mut().zip(making).for_each(|(to, making)| *to = making.terms());
        }
    }
}
