//! `replay`.

use super::errors::json;
use crate::error::{Error, Result};
use crate::tier::policy::Kind;
use crate::tier::trace::{self, Outcome, Trace};
use pyo3::prelude::*;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

/// Feeds a trace (docs/trace.md) to a policy (fixed, lru, fifo or lfu) with that many bytes, from an empty tier. JSON:
/// {"all_bytes", "prompt", "decode", "draft"}, the last three {"passes", "rows", "accesses", "hits", "hit_bytes",
/// "read_bytes", "evictions", "recorded_read_bytes"}.
///
/// Raises UsageError for a broken trace, naming the line, and for unknown policies; StoreIOError.
#[pyfunction]
pub fn replay(py: Python<'_>, path: PathBuf, policy: &str, capacity: u64) -> PyResult<String> {
    let known = Kind::ALL.map(Kind::name).join(", ");
    let kind = Kind::from_name(policy);
    let kind = kind.ok_or_else(|| Error::usage(format!("there is no policy {policy:?}; {known} are known")))?;
    json(&py.detach(|| run(path, kind, capacity))?)
}

fn run(path: PathBuf, policy: Kind, capacity: u64) -> Result<Outcome> {
    let file = File::open(&path).map_err(|e| Error::io("opening", &path, e))?;
    trace::replay(&mut Trace::new(BufReader::new(file), path)?, policy, capacity)
}
