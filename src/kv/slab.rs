//! Memory for blocks: one mapping for the blocks that 64 positions of one sequence take. Mapped rather than allocated,
//! because the C library kept seven eighths of what was freed in pieces of 8 MiB.

use super::kind::{KvKind, Shape};
use crate::error::{Error, Result};
use crate::mem::{Arena, SlotId, WriteLease};
use crate::types::KvRows;
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// Elements of a kind, all zero at first; a page costs memory once it is written.
#[derive(Debug)]
pub(super) struct Slab {
    kind: KvKind,
    memory: Option<WriteLease>,
}

impl Slab {
    pub(super) fn new(shape: &Shape) -> Result<Slab> {
        let bytes = 2 * shape.heads() * shape.half_block() * shape.kind.bytes();
        let mut memory = Arena::new(&[&[bytes]]).map_err(ours)?.write(SlotId(0))?;
        memory.truncate(bytes);
        Ok(Slab { kind: shape.kind, memory: Some(memory) })
    }

    /// No memory.
    pub(super) fn unmapped(kind: KvKind) -> Slab {
        Slab { kind, memory: None }
    }

    pub(super) fn is_mapped(&self) -> bool {
        self.memory.is_some()
    }

    /// Rounds and stores values from element `at` on.
    pub(super) fn write(&mut self, at: usize, values: &[f32]) {
        let all = self.memory.as_deref_mut().unwrap_or_default();
        match self.kind {
            KvKind::F16 => {
                bytemuck::cast_slice_mut::<_, half::f16>(all)[at..][..values.len()].convert_from_f32_slice(values)
            }
            KvKind::F32 => bytemuck::cast_slice_mut::<_, f32>(all)[at..][..values.len()].copy_from_slice(values),
        }
    }

    pub(super) fn read(&self, part: Range<usize>) -> KvRows<'_> {
        let all = self.memory.as_deref().unwrap_or_default();
        match self.kind {
            KvKind::F16 => KvRows::F16(&bytemuck::cast_slice(all)[part]),
            KvKind::F32 => KvRows::F32(&bytemuck::cast_slice(all)[part]),
        }
    }
}

fn ours(error: Error) -> Error {
    match error {
        Error::Memory { bytes, source, .. } => Error::Memory { bytes, what: "keys and values", source },
        other => other,
    }
}
