//! `KvCache`.

use super::array::In1;
use super::errors::lock;
use crate::kv::{self, Rope, SequenceId};
use pyo3::prelude::*;
use std::sync::Mutex;

/// K and V of sequences, in blocks of 64 positions per layer and KV head.
#[pyclass(frozen, module = "m2cache_rs._core")]
pub struct KvCache(pub Mutex<kv::KvCache>);

#[pymethods]
impl KvCache {
    /// An empty cache; head_dim is even.
    #[new]
    fn new(layers: usize, kv_heads: usize, head_dim: usize) -> PyResult<KvCache> {
        Ok(KvCache(Mutex::new(kv::KvCache::new(layers, kv_heads, head_dim)?)))
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

    /// Bytes of all blocks, shared ones once.
    fn bytes(&self) -> usize {
        lock(&self.0).bytes()
    }
}
