//! A block: K and V of 64 positions of one layer and KV head, and the meter that counts its bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Positions of a block, whatever the model: strides inside a block do not depend on capacity.
pub const BLOCK_POSITIONS: usize = 64;

/// Bytes of all live blocks of a cache, counted where they are made, copied and dropped: reading it costs nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<AtomicUsize>);

impl Meter {
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A block's entry in the meter.
#[derive(Debug)]
struct Charge {
    meter: Meter,
    bytes: usize,
}

impl Charge {
    fn new(meter: Meter, bytes: usize) -> Charge {
        meter.0.fetch_add(bytes, Ordering::Relaxed);
        Charge { meter, bytes }
    }
}

impl Clone for Charge {
    fn clone(&self) -> Charge {
        Charge::new(self.meter.clone(), self.bytes)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.meter.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a block holds. Narrower numbers, or activations to rebuild K and V from, are further kinds.
#[derive(Clone, Debug)]
enum Content {
    /// K and V, each `[BLOCK_POSITIONS, head_dim]`, f32.
    KvF32 { k: Box<[f32]>, v: Box<[f32]> },
}

/// One block. A clone is a copy with a charge of its own; sharing is an `Arc` around it.
#[derive(Clone, Debug)]
pub(super) struct Block {
    content: Content,
    charge: Charge,
}

impl Block {
    pub(super) fn new(head_dim: usize, meter: &Meter) -> Block {
        let zeros = || vec![0.0; BLOCK_POSITIONS * head_dim].into_boxed_slice();
        let bytes = 2 * BLOCK_POSITIONS * head_dim * size_of::<f32>();
        let charge = Charge::new(meter.clone(), bytes);
        Block { content: Content::KvF32 { k: zeros(), v: zeros() }, charge }
    }

    /// Stores the K and V of one position.
    pub(super) fn write(&mut self, row: usize, k_row: &[f32], v_row: &[f32]) {
        let elements = row * k_row.len()..(row + 1) * k_row.len();
        match &mut self.content {
            Content::KvF32 { k, v } => {
                k[elements.clone()].copy_from_slice(k_row);
                v[elements].copy_from_slice(v_row);
            }
        }
    }

    /// K and V of all positions, each `[BLOCK_POSITIONS, head_dim]`.
    pub(super) fn read(&self) -> (&[f32], &[f32]) {
        match &self.content {
            Content::KvF32 { k, v } => (k, v),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.charge.bytes
    }
}
