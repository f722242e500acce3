//! `Store`, `Survey`, `read_header` and `publish`.

use super::array::Out;
use super::errors::json;
use crate::error::{Error, Result};
use crate::store;
use crate::types::{Level, Matrix};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A tensor of a header: name, dtype, shape, first byte in the file, size in bytes.
type TensorRow = (String, String, Vec<usize>, u64, u64);

/// A damage: message, and the section, first record and records it hit.
type Finding = (String, Option<(String, u64, u64)>);

/// Reads and checks the header of any safetensors file: (name, dtype, shape, begin, bytes) per tensor, in file order.
///
/// Raises StoreIOError if the file cannot be read, StoreError naming the broken rule.
#[pyfunction]
pub fn read_header(py: Python<'_>, path: PathBuf) -> PyResult<Vec<TensorRow>> {
    let header = py.detach(|| store::read_header(&path))?;
    Ok(header.tensors.into_iter().map(|t| (t.name, t.dtype, t.shape, t.begin, t.bytes)).collect())
}

/// Renames a finished directory into place in one step; with replace an existing target is exchanged and removed.
///
/// Raises UsageError if the target exists and replace is false, StoreIOError otherwise.
#[pyfunction]
pub fn publish(py: Python<'_>, partial: PathBuf, target: PathBuf, replace: bool) -> PyResult<()> {
    Ok(py.detach(|| store::publish(&partial, &target, replace))?)
}

/// Removes the directories outside of a store (finished or not) that carry its marker and are no roots of another one;
/// nothing where its manifest cannot be read.
#[pyfunction]
pub fn remove_roots(py: Python<'_>, store: PathBuf, other: PathBuf) -> PyResult<()> {
    Ok(py.detach(|| store::remove_roots(&store, &other))?)
}

/// An open store; its manifest and every header were checked.
#[pyclass(frozen, module = "m2cache_rs._core")]
pub struct Store(pub Arc<store::Store>);

#[pymethods]
impl Store {
    /// Opens a store directory. Raises StoreError, StoreIOError or UnsupportedError, naming the file.
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Store> {
        Ok(Store(Arc::new(py.detach(|| store::Store::open(&path))?)))
    }

    /// The manifest as JSON.
    fn manifest(&self) -> PyResult<String> {
        json(&self.0.manifest)
    }

    /// The directories that hold its files, the store itself first.
    fn roots(&self) -> Vec<PathBuf> {
        self.0.roots.clone()
    }

    /// Files, sections and vectors as JSON: {"files": [{"name", "layer", "root", "bytes", "sections": [...], "vectors": [...]}]}.
    fn layout(&self) -> PyResult<String> {
        let files: Vec<_> = self.0.files.iter().enumerate().map(|(index, f)| {
            let sections: Vec<_> = self.0.sections.iter().filter(|s| s.file == index)
                .map(|s| serde_json::json!({
                    "name": s.layout.name, "parts": s.layout.parts, "records": s.layout.records, "payload": s.layout.payload,
                    "stride": s.layout.stride, "offset": s.begin, "check_records": s.layout.check, "bytes": s.layout.bytes(),
                })).collect();
            serde_json::json!({ "name": f.layout.name, "layer": f.layout.layer, "root": f.root, "bytes": f.bytes, "sections": sections, "vectors": f.layout.vectors })
        }).collect();
        json(&serde_json::json!({ "files": files }))
    }

    /// Weights of records first..first + count of a matrix at 4, 8 or 16 bits, float32 [count, hidden], checked; layer is
    /// None for embed and head.
    fn rows<'py>(
        &self,
        py: Python<'py>,
        layer: Option<usize>,
        matrix: &str,
        first: usize,
        count: usize,
        bits: u32,
    ) -> PyResult<Out<'py, f32>> {
        let level = Level::try_from(bits).map_err(Error::Usage)?;
        let (matrix, end) = (Matrix::from_name(matrix)?, first.saturating_add(count));
        let weights = py.detach(|| self.0.weights(layer, matrix, first..end, level))?;
        Out::new(py, weights, &[count, self.0.manifest.architecture.hidden])
    }

    /// A norm gain or bias, float32 [n], checked; layer is None for norm.final.
    fn vector<'py>(&self, py: Python<'py>, layer: Option<usize>, name: &str) -> PyResult<Out<'py, f32>> {
        let values = py.detach(|| self.0.vector(layer, name))?;
        let len = values.len();
        Out::new(py, values, &[len])
    }

    /// Checks one file (of weights, or an asset) whole: per damage a message and, where it lies in records, the section,
    /// the first record under the broken checksum and the records under it; none if it is sound. progress is told the
    /// bytes done; what it raises (KeyboardInterrupt) ends the check.
    #[pyo3(signature = (name, progress=None))]
    fn verify(&self, py: Python<'_>, name: String, progress: Option<Py<PyAny>>) -> PyResult<Vec<Finding>> {
        verified(py, progress, |tell| self.0.verify(&name, tell))
    }
}

/// A store to be checked: its manifest is sound, its files may be missing or broken.
#[pyclass(frozen, module = "m2cache_rs._core")]
pub struct Survey(store::Survey);

#[pymethods]
impl Survey {
    /// Reads the manifest of a store directory. Raises StoreError, StoreIOError or UnsupportedError, naming the file.
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Survey> {
        Ok(Survey(py.detach(|| store::Survey::open(&path))?))
    }

    /// The manifest as JSON.
    fn manifest(&self) -> PyResult<String> {
        json(self.0.manifest())
    }

    /// Checks one file as Store.verify does; one that is missing, cut or not what the manifest says is a damage as well.
    ///
    /// Raises StoreIOError where the system refuses to open one that is there.
    #[pyo3(signature = (name, progress=None))]
    fn verify(&self, py: Python<'_>, name: String, progress: Option<Py<PyAny>>) -> PyResult<Vec<Finding>> {
        verified(py, progress, |tell| self.0.verify(&name, tell))
    }
}

/// Runs a check without the GIL; `progress` is told at most every 50 ms, and what it raises ends the check.
fn verified(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    check: impl FnOnce(&mut dyn FnMut(u64) -> bool) -> Result<Vec<store::Finding>> + Send,
) -> PyResult<Vec<Finding>> {
    py.detach(|| {
        let mut told = Instant::now();
        let mut tell = |done: u64| -> PyResult<()> {
            if told.elapsed() < Duration::from_millis(50) {
                return Ok(());
            }
            told = Instant::now();
            Python::attach(|py| {
                py.check_signals()?;
                progress.as_ref().map_or(Ok(()), |p| p.call1(py, (done,)).map(|_| ()))
            })
        };
        let mut raised = None;
        let found = check(&mut |done| match tell(done) {
            Ok(()) => true,
            Err(e) => {
                raised = Some(e);
                false
            }
        });
        raised.map_or_else(|| Ok(found?.into_iter().map(|f| (f.message, f.place)).collect()), Err)
    })
}
