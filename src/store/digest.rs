//! Digests: of bytes, and of a file.

use super::regular::open_regular;
use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// xxh3-128 in hex.
pub fn digest(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

/// xxh3-128 of a file, read in pieces.
pub fn digest_file(path: &Path) -> Result<String> {
    let mut file = open_regular(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io("reading", path, e))? {
            0 => return Ok(format!("{:032x}", hash.digest128())),
            n => hash.update(&buffer[..n]),
        }
    }
}
