//! `StoreWriter`.

use super::array::{In1, In2};
use super::errors::{from_json, json, lock};
use super::store::Store;
use crate::error::{Error, Result};
use crate::store::{self, Manifest, RawRows};
use crate::types::Matrix;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Mutex;

/// Writes the files of one store into an existing directory, or spread over several, tile by tile.
#[pyclass(frozen, module = "m2cache_rs._core")]
pub struct StoreWriter(Mutex<store::StoreWriter>);

/// What the manifest says beyond what the writer knows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    generator: String,
    source: serde_json::Value,
    equalize: serde_json::Value,
    synthetic: bool,
    assets: Vec<String>,
    #[serde(default)]
    roots: Vec<String>,
}

/// Source rows of one matrix while Python lends them.
enum Lent<'py> {
    Bits(In2<'py, u16>),
    Floats(In2<'py, f32>),
}

#[pymethods]
impl StoreWriter {
    /// architecture and encoding are JSON texts; stripes are directories of further roots. Raises UsageError when they
    /// break a rule.
    #[new]
    #[pyo3(signature = (directory, architecture, encoding, stripes=vec![]))]
    fn new(directory: PathBuf, architecture: &str, encoding: &str, stripes: Vec<PathBuf>) -> PyResult<StoreWriter> {
        let architecture = from_json("architecture", architecture)?;
        let directories = std::iter::once(directory).chain(stripes).collect();
        let writer = store::StoreWriter::new(directories, architecture, from_json("encoding", encoding)?)?;
        Ok(StoreWriter(Mutex::new(writer)))
    }

    /// (name, exact bytes) of every file, layers first.
    fn files(&self) -> Vec<(String, u64)> {
        lock(&self.0).sizes()
    }

    /// The root of every file: 0 is the store itself, k the stripe k - 1.
    fn roots(&self) -> Vec<usize> {
        lock(&self.0).roots().to_vec()
    }

    /// Starts one file; its disk space is taken now.
    fn begin(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        Ok(py.detach(|| lock(&self.0).begin(name))?)
    }

    /// Writes a norm gain or bias of the open file: float32 [n].
    fn vector(&self, name: &str, values: In1<'_, f32>) -> PyResult<()> {
        Ok(lock(&self.0).vector(name, values.slice()?)?)
    }

    /// Codes and writes records first.. of matrices that share records, each [T, hidden] with records as rows; dtype is
    /// BF16 or F16 (uint16 bit patterns) or F32 (float32). column_scale, float32 [hidden], multiplies every row but those
    /// of down. Tiles are cut at multiples of 64 records. Returns the exact zeros in groups that are not all zero.
    ///
    /// Raises CheckpointError naming tensor, row and group of a weight that cannot be coded.
    #[pyo3(signature = (first, dtype, matrices: "dict[str, NDArray[Any]]", column_scale=None))]
    fn records(
        &self,
        py: Python<'_>,
        first: usize,
        dtype: &str,
        matrices: &Bound<'_, PyDict>,
        column_scale: Option<In1<'_, f32>>,
    ) -> PyResult<u64> {
        let lent = matrices
            .iter()
            .map(|(name, rows)| Ok((Matrix::from_name(&name.extract::<String>()?)?, lend(dtype, &rows)?)));
        let lent: Vec<(Matrix, Lent)> = lent.collect::<PyResult<_>>()?;
        let raw: Vec<(Matrix, RawRows)> = lent.iter().map(|(m, l)| Ok((*m, l.raw(dtype)?))).collect::<PyResult<_>>()?;
        let scale = column_scale.as_ref().map(|s| s.slice()).transpose()?;
        Ok(py.detach(|| lock(&self.0).records(first, &raw, scale))?)
    }

    /// Fills the open file with random weights, without coding any: they depend on seed, file and shape alone.
    fn synthesize(&self, py: Python<'_>, seed: u64) -> PyResult<()> {
        Ok(py.detach(|| lock(&self.0).synthesize(seed))?)
    }

    /// Fills the open file with that of an open store of the same architecture and encoding, codes as they are; with an
    /// order, uint32 [ffn], neuron order[i] of the layer becomes neuron i.
    ///
    /// Raises DamageError naming broken records of the source.
    #[pyo3(signature = (source, order=None))]
    fn copy(&self, py: Python<'_>, source: &Store, order: Option<In1<'_, u32>>) -> PyResult<()> {
        let order = order.as_ref().map(|o| o.slice()).transpose()?;
        let source = &source.0;
        Ok(py.detach(|| lock(&self.0).copy(source, order))?)
    }

    /// Completes the open file: tables, header, fsync. Returns its entry as JSON, for adopt.
    fn end(&self, py: Python<'_>) -> PyResult<String> {
        json(&py.detach(|| lock(&self.0).end())?)
    }

    /// Takes over a file that an interrupted run finished; false when it is not there as the entry says.
    fn adopt(&self, py: Python<'_>, entry: &str) -> PyResult<bool> {
        let entry = from_json("entry", entry)?;
        Ok(py.detach(|| lock(&self.0).adopt(entry)))
    }

    /// Writes the manifest, which makes the directory a store, and returns its id. extra is JSON: {"generator", "source",
    /// "equalize", "synthetic", "assets": [names of files already copied there], "roots": [where the stripes will lie,
    /// seen from the store; may be left out without any]}.
    fn finish(&self, py: Python<'_>, extra: &str) -> PyResult<String> {
        let extra: Extra = from_json("extra", extra)?;
        Ok(py.detach(|| {
            let mut writer = lock(&self.0);
            let directory = writer.directory().to_path_buf();
            writer.finish(|manifest| fill(manifest, &directory, extra))
        })?)
    }
}

fn fill(manifest: &mut Manifest, directory: &std::path::Path, extra: Extra) -> Result<()> {
    manifest.generator = extra.generator;
    manifest.source = extra.source;
    manifest.equalize = extra.equalize;
    manifest.synthetic = extra.synthetic;
    manifest.roots.extend(extra.roots);
    manifest.assets = extra.assets.into_iter().map(|name| store::asset(directory, name)).collect::<Result<_>>()?;
    Ok(())
}

fn lend<'py>(dtype: &str, rows: &Bound<'py, PyAny>) -> PyResult<Lent<'py>> {
    match dtype {
        "BF16" | "F16" => Ok(Lent::Bits(rows.extract()?)),
        "F32" => Ok(Lent::Floats(rows.extract()?)),
        _ => Err(Error::usage(format!("rows of dtype {dtype:?}; BF16, F16 and F32 are known")).into()),
    }
}

impl Lent<'_> {
    fn raw(&self, dtype: &str) -> PyResult<RawRows<'_>> {
        Ok(match self {
            Lent::Bits(rows) if dtype == "BF16" => RawRows::Bf16(rows.slice()?),
            Lent::Bits(rows) => RawRows::F16(rows.slice()?),
            Lent::Floats(rows) => RawRows::F32(rows.slice()?),
        })
    }
}
