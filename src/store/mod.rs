//! The store on SSD (docs/format.md): layout arithmetic, headers, the streaming writer, the reader. Knows no cache.

mod accept;
mod canonical;
mod catalog;
mod copy;
mod declared;
mod digest;
mod entries;
#[cfg(test)]
mod fuzz_tests;
mod header;
mod layout;
mod manifest;
mod marker;
mod open;
mod publish;
mod regular;
mod roots;
mod rows;
mod survey;
mod synthetic;
mod tile;
mod verify;
mod writer;

pub use catalog::{Catalog, SectionId};
pub use digest::digest_file;
pub use header::{Header, Tensor, parse_header, read_header};
pub use layout::{FileLayout, SectionLayout, VectorLayout, file, files};
pub use manifest::{FORMAT_VERSION, FileEntry, MANIFEST, Manifest, asset};
pub use marker::remove_roots;
pub use open::{Section, Store};
pub use publish::publish;
pub use survey::Survey;
pub use tile::RawRows;
pub use verify::Finding;
pub use writer::StoreWriter;
