//! Errors as the classes of `m2cache_rs.errors`.

use crate::error::Error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        Python::attach(|py| raise(py, &error).unwrap_or_else(|e| e))
    }
}

fn raise(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = py.import("m2cache_rs.errors")?.getattr(class_of(error))?;
    let instance = class.call1((error.to_string(),))?;
    if let Some(errno) = errno_of(error) {
        instance.setattr("errno", errno)?;
    }
    Ok(PyErr::from_value(instance))
}

fn errno_of(error: &Error) -> Option<i32> {
    match error {
        Error::Io { source, .. } => source.raw_os_error(),
        Error::Records { source, .. } => errno_of(source),
        _ => None,
    }
}

fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Records { source, .. } => class_of(source),
        Error::Io { .. } | Error::Root { .. } => "StoreIOError",
        Error::Truncated { .. } | Error::Header { .. } | Error::Format { .. } => "StoreError",
        Error::Unsupported { .. } => "UnsupportedError",
        Error::Damage { .. } | Error::Digest { .. } => "DamageError",
        Error::Weight { .. } => "CheckpointError",
        Error::CacheTooSmall { .. } | Error::KvFull { .. } | Error::Memory { .. } => "BudgetError",
        Error::Trace { .. } | Error::Usage(_) => "UsageError",
        Error::Interrupted | Error::Internal(_) => "M2CacheError",
    }
}

/// Locks what an earlier panic may have left locked: every core call leaves its state usable.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// JSON text of a serialisable value.
pub fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| PyRuntimeError::new_err(e.to_string()))
}

/// A value from JSON text; `what` names it in the error.
pub fn from_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|e| Error::usage(format!("{what}: {e}")).into())
}
