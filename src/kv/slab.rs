//! Memory for blocks: one allocation for the blocks that 64 positions of one sequence take.

use super::kind::{KvKind, Shape};
use crate::error::{Error, Result};
use crate::types::KvRows;
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::io::ErrorKind;
use std::ops::Range;

/// Elements of a kind, all zero at first.
#[derive(Debug)]
pub(super) enum Slab {
    F16(Box<[f16]>),
    F32(Box<[f32]>),
}

impl Slab {
    pub(super) fn new(shape: &Shape) -> Result<Slab> {
        let elements = shape.heads() * 2 * shape.half_block();
        Ok(match shape.kind {
            KvKind::F16 => Slab::F16(zeros(elements, f16::ZERO)?),
            KvKind::F32 => Slab::F32(zeros(elements, 0.0)?),
        })
    }

    /// No memory.
    pub(super) fn unmapped(kind: KvKind) -> Slab {
        match kind {
            KvKind::F16 => Slab::F16(Box::default()),
            KvKind::F32 => Slab::F32(Box::default()),
        }
    }

    pub(super) fn is_mapped(&self) -> bool {
        match self {
            Slab::F16(all) => !all.is_empty(),
            Slab::F32(all) => !all.is_empty(),
        }
    }

    /// Rounds and stores values from element `at` on.
    pub(super) fn write(&mut self, at: usize, values: &[f32]) {
        match self {
            Slab::F16(all) => all[at..at + values.len()].convert_from_f32_slice(values),
            Slab::F32(all) => all[at..at + values.len()].copy_from_slice(values),
        }
    }

    pub(super) fn read(&self, part: Range<usize>) -> KvRows<'_> {
        match self {
            Slab::F16(all) => KvRows::F16(&all[part]),
            Slab::F32(all) => KvRows::F32(&all[part]),
        }
    }
}

/// Zeros, or the error that there is no memory for them: a growing sequence must not end the process.
fn zeros<T: Clone>(count: usize, zero: T) -> Result<Box<[T]>> {
    let mut all = Vec::new();
    let what = "keys and values";
    let none = |_| Error::Memory { bytes: count * size_of::<T>(), what, source: ErrorKind::OutOfMemory.into() };
    all.try_reserve_exact(count).map_err(none)?;
    all.resize(count, zero);
    Ok(all.into_boxed_slice())
}
