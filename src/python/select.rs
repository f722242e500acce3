//! What benches need of `select`.

use crate::select::fit_memory;
use pyo3::prelude::*;

/// The `memory` of a trace (a recipe's selector) in which, of the share of a layer's neurons that a token has, on average
/// `overlap` are those of the token before.
///
/// Raises UsageError for a share of no neuron and for an overlap out of reach, naming the range.
#[pyfunction]
pub fn trace_memory(py: Python<'_>, neurons: usize, share: f64, overlap: f64, skew: f32, seed: u64) -> PyResult<f32> {
    Ok(py.detach(|| fit_memory(neurons, share, overlap, skew, seed))?)
}
