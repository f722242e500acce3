//! `DiskProbe`, `MemoryProbe`, `isa`, `isa_refused`.

use super::errors::lock;
use crate::engine::RING_BYTES;
use crate::error::{Error, Result};
use crate::probe::{self, Choice, DEPTH, Disk, Kernel, Memory};
use crate::types::Level;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// The instruction sets of this machine that there are kernels for, narrowest first, and the one that is used.
///
/// Raises UsageError if the environment forces one that is not there.
#[pyfunction]
pub fn isa() -> PyResult<(Vec<&'static str>, &'static str)> {
    Ok(probe::isa()?)
}

/// Where the processor has wider registers or tiles than the set that is used, but they cannot be: (why, what to do about
/// it). None where nothing was refused, or a set is forced.
#[pyfunction]
pub fn isa_refused() -> Option<(&'static str, &'static str)> {
    probe::isa_refused()
}

/// Files whose reads are measured, by the engine that reads a store. The GIL is released; an interrupt is answered
/// between calls.
#[pyclass(frozen, module = "m2cache_rs._core")]
pub struct DiskProbe(Mutex<Disk>);

#[pymethods]
impl DiskProbe {
    /// Writes up to `bytes` into a file in a directory, for some seconds at most. The file has no name, so nothing is left
    /// of it. io is auto, uring or psync.
    ///
    /// Raises StoreIOError if nothing can be written there.
    #[staticmethod]
    #[pyo3(signature = (directory, bytes, seconds, io="auto"))]
    fn scratch(py: Python<'_>, directory: PathBuf, bytes: u64, seconds: f64, io: &str) -> PyResult<DiskProbe> {
        let (choice, limit) = (Choice::parse(io)?, limit(seconds)?);
        Ok(DiskProbe(Mutex::new(py.detach(|| Disk::scratch(&directory, bytes, limit, choice))?)))
    }

    /// Takes files that are there. Raises StoreIOError naming one that cannot be opened.
    #[staticmethod]
    #[pyo3(signature = (paths, io="auto"))]
    fn files(py: Python<'_>, paths: Vec<PathBuf>, io: &str) -> PyResult<DiskProbe> {
        let choice = Choice::parse(io)?;
        Ok(DiskProbe(Mutex::new(py.detach(|| Disk::files(&paths, choice))?)))
    }

    /// Reads of `bytes` that the engine has in flight while a model streams.
    #[staticmethod]
    fn depth(bytes: usize) -> usize {
        (RING_BYTES / bytes.max(1)).clamp(1, DEPTH)
    }

    /// GB a second of reading blocks of `bytes` (whole pages up to 1 MiB), `depth` at a time (up to 64, and 32 MiB), far apart, for
    /// some seconds and until the last has come; None if no file holds such a block.
    fn rate(&self, py: Python<'_>, bytes: usize, depth: usize, seconds: f64) -> PyResult<Option<f64>> {
        let limit = limit(seconds)?;
        Ok(py.detach(|| lock(&self.0).rate(bytes, depth, limit))?)
    }

    /// Bytes there are to read.
    #[getter]
    fn bytes(&self) -> u64 {
        lock(&self.0).bytes()
    }

    /// The engine that reads: uring or psync.
    #[getter]
    fn io(&self) -> &'static str {
        lock(&self.0).reader()
    }

    /// What the engine could not have, a sentence each.
    #[getter]
    fn notes(&self) -> Vec<String> {
        lock(&self.0).notes().to_vec()
    }

    /// What O_DIRECT needs: alignment of (memory, offsets) in bytes, zeros where it is refused, None if the kernel does
    /// not tell.
    #[getter]
    fn alignment(&self) -> Option<(u32, u32)> {
        lock(&self.0).alignment().map(|a| (a.memory, a.offset))
    }
}

/// Random weights in memory: rates of reading them and of computing with them. The GIL is released; an interrupt is
/// answered between calls.
#[pyclass(frozen, module = "m2cache_rs._core")]
pub struct MemoryProbe(Memory);

#[pymethods]
impl MemoryProbe {
    /// Takes 4 MiB to 1 GiB of memory, which should be several times the caches; threads=None takes one per core.
    #[new]
    #[pyo3(signature = (bytes, threads=None))]
    fn new(py: Python<'_>, bytes: usize, threads: Option<usize>) -> PyResult<MemoryProbe> {
        Ok(MemoryProbe(py.detach(|| Memory::new(bytes, threads))?))
    }

    /// Threads in use.
    #[getter]
    fn threads(&self) -> usize {
        self.0.threads()
    }

    /// GB of memory read a second, by all threads or by one.
    fn bandwidth(&self, py: Python<'_>, all_threads: bool, seconds: f64) -> PyResult<f64> {
        let limit = limit(seconds)?;
        Ok(py.detach(|| self.0.bandwidth(all_threads, limit)))
    }

    /// GB of stored weights a second at 4, 8 or 16 bits, one token, all threads; kernel is dot or accumulate.
    fn kernel(&self, py: Python<'_>, kernel: &str, bits: u32, seconds: f64) -> PyResult<f64> {
        let kernel = match kernel {
            "dot" => Kernel::Dot,
            "accumulate" => Kernel::Accumulate,
            _ => return Err(Error::usage(format!("kernel {kernel:?}; dot and accumulate are known")).into()),
        };
        let unknown = || Error::usage(format!("a level of {bits} bits; 4, 8 and 16 are known"));
        let (level, limit) = (Level::from_bits(bits).ok_or_else(unknown)?, limit(seconds)?);
        Ok(py.detach(|| self.0.kernel(kernel, level, limit)))
    }
}

fn limit(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|e| Error::usage(format!("seconds is {seconds}: {e}")))
}
