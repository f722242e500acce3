//! How a value of K or V is kept, and what that costs.

use super::BLOCK_POSITIONS;
use crate::error::{Error, Result};

/// The number type of K and V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvKind {
    /// IEEE half precision, rounded to nearest even when appended. Beyond 65504 a value becomes infinite; attention then
    /// gives NaN, which the sampler reports.
    F16,
    /// As computed.
    F32,
}

impl KvKind {
    /// The kind of that name: `f16` or `f32`.
    ///
    /// # Errors
    /// [`Error::Usage`] for any other.
    pub fn parse(name: &str) -> Result<KvKind> {
        match name {
            "f16" => Ok(KvKind::F16),
            "f32" => Ok(KvKind::F32),
            _ => Err(Error::usage(format!("kv {name:?}; f16 and f32 are known"))),
        }
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            KvKind::F16 => 2,
            KvKind::F32 => 4,
        }
    }
}

/// The sizes of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Decoder layers.
    pub layers: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// What they are kept as.
    pub kind: KvKind,
}

/// Layers x KV heads, or elements of a head, beyond which a shape is a mistake.
const MAX_DIM: usize = 1 << 24;

impl Shape {
    /// The shape, if it can be one.
    ///
    /// # Errors
    /// [`Error::Usage`] if a size is zero or absurd, or `head_dim` is odd.
    pub fn new(layers: usize, kv_heads: usize, head_dim: usize, kind: KvKind) -> Result<Shape> {
        let heads = layers.saturating_mul(kv_heads);
        if heads == 0 || heads > MAX_DIM {
            let rule = format!("the product must lie in 1..={MAX_DIM}");
            return Err(Error::usage(format!("KV cache of {layers} layers x {kv_heads} KV heads: {rule}")));
        }
        if head_dim == 0 || head_dim > MAX_DIM || !head_dim.is_multiple_of(2) {
            let rule = format!("it must be even and lie in 2..={MAX_DIM}");
            return Err(Error::usage(format!("KV cache with a head dimension of {head_dim}: {rule}")));
        }
        Ok(Shape { layers, kv_heads, head_dim, kind })
    }

    /// Heads over all layers: the blocks that 64 positions of one sequence take.
    pub(super) fn heads(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Elements of K, or of V, in a block.
    pub(super) fn half_block(&self) -> usize {
        BLOCK_POSITIONS * self.head_dim
    }

    /// Bytes that `positions` positions of one sequence take: whole blocks of 64.
    ///
    /// # Errors
    /// [`Error::Usage`] if they are more than can be counted.
    pub fn bytes_for(&self, positions: usize) -> Result<u64> {
        let block = (2 * self.half_block() * self.kind.bytes()) as u64;
        let blocks = (positions.div_ceil(BLOCK_POSITIONS) as u64).checked_mul(self.heads() as u64);
        let absurd = || Error::usage(format!("keys and values of {positions} positions cannot be counted in bytes"));
        blocks.and_then(|n| n.checked_mul(block)).ok_or_else(absurd)
    }
}
