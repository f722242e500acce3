//! `KvCache`.

use super::array::In1;
use super::errors::lock;
use crate::kv::{self, KvKind, Rope, SequenceId, Shape};
use pyo3::prelude::*;
use std::sync::Mutex;

/// K and V of sequences, in blocks of 64 positions per layer and KV head.
#[pyclass(frozen, module = "m2cache_rs._core")]
pub struct KvCache(pub Mutex<kv::KvCache>);

#[pymethods]
impl KvCache {
    /// An empty cache; head_dim is even. kind is f16 (values are rounded to nearest even; beyond 65504 they become infinite
    /// and end in NumericsError) or f32. capacity: positions over all sequences, each taking whole blocks of 64; attention
    /// beyond it raises BudgetError. None is bound by memory alone.
    #[new]
    #[pyo3(signature = (layers, kv_heads, head_dim, kind="f16", capacity=None))]
    fn new(layers: usize, kv_heads: usize, head_dim: usize, kind: &str, capacity: Option<usize>) -> PyResult<KvCache> {
        let shape = Shape::new(layers, kv_heads, head_dim, KvKind::parse(kind)?)?;
        Ok(KvCache(Mutex::new(kv::KvCache::new(shape, capacity)?)))
    }

    /// Bytes that positions of one sequence take, exactly: whole blocks of 64. For a capacity, what the cache takes at most.
    #[staticmethod]
    fn bytes_for(layers: usize, kv_heads: usize, head_dim: usize, kind: &str, positions: usize) -> PyResult<u64> {
        Ok(Shape::new(layers, kv_heads, head_dim, KvKind::parse(kind)?)?.bytes_for(positions)?)
    }

    /// A new empty sequence: inv_freq float32 [head_dim / 2], attention_factor multiplies cos and sin. Returns its id.
    fn create(&self, inv_freq: In1<'_, f32>, attention_factor: f32) -> PyResult<u32> {
        let rope = Rope { inv_freq: inv_freq.slice()?.to_vec(), attention_factor };
        Ok(lock(&self.0).create(rope)?.0)
    }

    /// Positions that the layers (a, b) of a sequence all hold; None means every layer.
    #[pyo3(signature = (sequence, layers=None))]
    fn length(&self, sequence: u32, layers: Option<(usize, usize)>) -> PyResult<usize> {
        let cache = lock(&self.0);
        let layers = layers.map_or(cache.layers(), |(a, b)| a..b);
        Ok(cache.length(SequenceId(sequence), layers)?)
    }

    /// Forgets positions from length on in the layers (a, b), None meaning every layer; also repairs a forward that
    /// failed half-way.
    #[pyo3(signature = (sequence, length, layers=None))]
    fn truncate(&self, sequence: u32, length: usize, layers: Option<(usize, usize)>) -> PyResult<()> {
        let mut cache = lock(&self.0);
        let layers = layers.map_or(cache.layers(), |(a, b)| a..b);
        Ok(cache.truncate(SequenceId(sequence), length, layers)?)
    }

    /// A new sequence that shares the blocks of this one (copied when one side writes). Returns its id.
    fn fork(&self, sequence: u32) -> PyResult<u32> {
        Ok(lock(&self.0).fork(SequenceId(sequence))?.0)
    }

    /// Removes a sequence.
    fn free(&self, sequence: u32) -> PyResult<()> {
        Ok(lock(&self.0).free(SequenceId(sequence))?)
    }

    /// Bytes of keys and values in memory, shared blocks once.
    fn bytes(&self) -> usize {
        lock(&self.0).bytes()
    }
}
