//! The border to Python: convert, release the GIL, one core call, map the error.

mod array;
mod cache;
mod engine;
mod errors;
mod needs;
mod parse;
mod probe;
mod replay;
mod select;
mod signals;
mod store;
mod writer;

use pyo3::prelude::*;

/// The Rust core of m2cache_rs.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::cache::KvCache;
    #[pymodule_export]
    use super::engine::Engine;
    #[pymodule_export]
    use super::needs::{forecast, needs, ring_bytes, scratch_bytes};
    #[pymodule_export]
    use super::probe::{DiskProbe, MemoryProbe, isa, isa_refused};
    #[pymodule_export]
    use super::replay::replay;
    #[pymodule_export]
    use super::select::trace_memory;
    #[pymodule_export]
    use super::store::{Store, Survey, publish, read_header, remove_roots};
    #[pymodule_export]
    use super::writer::StoreWriter;
    /// Version of the package.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
