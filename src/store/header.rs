//! The safetensors container: parsing a header that may be hostile, and writing ours.
//!
//! Rules (each broken one is a named error): the 8-byte length fits the file and the 100 MB cap; the header is a UTF-8
//! JSON object without duplicate names; every tensor has a known dtype, a shape whose product does not overflow, and a
//! byte range of exactly that size; ranges cover the rest of the file in order, without holes or overlaps.

use super::entries::{Entries, RawTensor};
use super::layout::{PAGE, TensorLayout};
use super::regular::open_linked;
use crate::error::{Error, Result, one_line, quoted};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The container's own cap on a header.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor as a header declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// `BF16`, `F16`, `F32`, ...
    pub dtype: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub begin: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// A parsed header.
#[derive(Clone, Debug)]
pub struct Header {
    /// Tensors in file order.
    pub tensors: Vec<Tensor>,
    /// The free-form string map.
    pub metadata: BTreeMap<String, String>,
    /// The header's bytes, length included.
    pub raw: Vec<u8>,
}

/// Reads and checks the header of any safetensors file.
///
/// # Errors
/// `Error::Io` if the file cannot be read, `Error::Header` naming the broken rule otherwise.
pub fn read_header(path: &Path) -> Result<Header> {
    let mut file = open_linked(path)?;
    let size = file.metadata().map_err(|e| Error::io("reading", path, e))?.len();
    read_header_from(&mut file, size, MAX_HEADER, path)
}

/// The same for an open file whose header may take `most` bytes; nothing is allocated for a claim above that, or above
/// what the file holds.
pub fn read_header_from(file: &mut File, size: u64, most: u64, path: &Path) -> Result<Header> {
    let mut raw = vec![0u8; 8];
    read_exact(file, &mut raw, path)?;
    let length = u64::from_le_bytes([raw[0], raw[1], raw[2], raw[3], raw[4], raw[5], raw[6], raw[7]]);
    if length > most {
        return Err(rule(path, format!("the header claims {length} bytes; here it can have {most} at most")));
    }
    if 8 + length > size {
        return Err(rule(path, format!("the header claims {length} bytes, but the file has {size} in all: truncated")));
    }
    raw.resize(8 + length as usize, 0);
    read_exact(file, &mut raw[8..], path)?;
    let mut header = parse_header(&raw[8..], size - 8 - length).map_err(|e| rule(path, e))?;
    header.raw = raw;
    Ok(header)
}

fn read_exact(file: &mut File, buffer: &mut [u8], path: &Path) -> Result<()> {
    file.read_exact(buffer).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => rule(path, "the file ends inside the safetensors header"),
        _ => Error::io("reading", path, e),
    })
}

fn rule(path: &Path, rule: impl Into<String>) -> Error {
    Error::Header { path: path.into(), rule: rule.into() }
}

/// Parses header text for a file with `data` bytes behind it; `begin` counts from the start of the file.
///
/// # Errors
/// The broken rule.
pub fn parse_header(text: &[u8], data: u64) -> std::result::Result<Header, String> {
    let utf8 = std::str::from_utf8(text).map_err(|e| format!("the header is not UTF-8: {e}"))?;
    let entries: Entries =
        serde_json::from_str(utf8).map_err(|e| one_line(&format!("the header is no JSON object of tensors: {e}")))?;
    let tensors = entries.tensors.into_iter().map(|(name, raw)| tensor(name, raw));
    let mut tensors = tensors.collect::<std::result::Result<Vec<_>, _>>()?;
    let mut names = HashSet::new();
    if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        return Err(format!("tensor {} is declared twice", quoted(&twice.name)));
    }
    tensors.sort_by_key(|t| (t.begin, t.bytes));
    check_cover(&tensors, data)?;
    let base = 8 + text.len() as u64;
    tensors.iter_mut().for_each(|t| t.begin += base);
    Ok(Header { tensors, metadata: entries.metadata, raw: vec![] })
}

fn tensor(name: String, raw: RawTensor) -> std::result::Result<Tensor, String> {
    let shown = quoted(&name);
    let Some(item) = item_bytes(&raw.dtype) else {
        return Err(format!("tensor {shown} has the unknown dtype {}", quoted(&raw.dtype)));
    };
    let [begin, end] = raw.data_offsets;
    let bytes =
        end.checked_sub(begin).ok_or_else(|| format!("tensor {shown} ends at {end}, before it begins at {begin}"))?;
    let size = raw.shape.0.iter().try_fold(item, |size, n| size.checked_mul(*n));
    if size != Some(bytes) {
        return Err(format!(
            "tensor {shown} of shape {:?} and dtype {} cannot take {bytes} bytes",
            raw.shape.0, raw.dtype
        ));
    }
    let shape = raw.shape.0.iter().map(|n| usize::try_from(*n).map_err(|_| format!("tensor {shown} is too large")));
    let shape = shape.collect::<std::result::Result<_, _>>()?;
    Ok(Tensor { name, dtype: raw.dtype, shape, begin, bytes })
}

/// Bytes of one element.
fn item_bytes(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
        "I16" | "U16" | "F16" | "BF16" => Some(2),
        "I32" | "U32" | "F32" => Some(4),
        "I64" | "U64" | "F64" | "C64" => Some(8),
        _ => None,
    }
}

fn check_cover(tensors: &[Tensor], data: u64) -> std::result::Result<(), String> {
    let mut at = 0;
    for t in tensors {
        if t.begin != at {
            let what = if t.begin < at { "overlaps the tensor before it" } else { "leaves a hole before it" };
            let name = quoted(&t.name);
            return Err(format!("tensor {name} begins at {} and {what}, which ends at {at}", t.begin));
        }
        at += t.bytes;
    }
    match at == data {
        true => Ok(()),
        false => Err(format!("the tensors take {at} bytes, but the file holds {data} behind its header")),
    }
}

/// The bytes of a store file's header, padded with spaces so that the data behind it begins on a page.
pub fn render(tensors: &[TensorLayout], metadata: &str) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    map.insert("__metadata__".into(), serde_json::json!({ "m2cache": metadata }));
    for t in tensors {
        let entry =
            serde_json::json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": [t.begin, t.begin + t.bytes] });
        map.insert(t.name.clone(), entry);
    }
    let mut text = serde_json::Value::Object(map).to_string().into_bytes();
    let padded = (8 + text.len() as u64).next_multiple_of(PAGE) - 8;
    text.resize(padded as usize, b' ');
    let mut raw = padded.to_le_bytes().to_vec();
    raw.extend(text);
    raw
}
