//! `m2cache.json`: what makes a directory a store. Written last.

use crate::config::{Architecture, Encoding};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;

/// File name of the manifest.
pub const MANIFEST: &str = "m2cache.json";
/// The one version of the format there is.
pub const FORMAT_VERSION: u32 = 1;
/// What the `format` field says.
const FORMAT: &str = "m2cache-store";
/// A manifest above this is an attack.
const MAX_MANIFEST: u64 = 16 << 20;

/// A file of weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name inside the store.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// xxh3-128 of the header, which holds the digests of everything else.
    pub digest: String,
    /// Weights coded in it.
    pub weights: u64,
    /// Exact zeros inside groups that are not all zero: they decode to half a cell.
    pub zeros: u64,
}

/// A file copied unchanged from the source model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asset {
    /// Name inside the store.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// xxh3-128 of the bytes.
    pub digest: String,
}

/// The entry of a file that was copied into `directory`.
pub fn asset(directory: &Path, name: String) -> Result<Asset> {
    let path = directory.join(&name);
    let digest = super::digest_file(&path)?;
    let bytes = path.metadata().map_err(|e| Error::io("reading", &path, e))?.len();
    Ok(Asset { name, bytes, digest })
}

/// Everything known about a store before its files are opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `m2cache-store`.
    pub format: String,
    /// Format version.
    pub version: u32,
    /// What a reader must know beyond the version.
    pub features: Vec<String>,
    /// Hash of all that determines the model's output; see [`Manifest::compute_id`].
    pub id: String,
    /// The model.
    pub architecture: Architecture,
    /// How its weights are coded and cut.
    pub encoding: Encoding,
    /// Files of weights, layers first.
    pub files: Vec<FileEntry>,
    /// Directories that hold files; `.` is the store itself.
    pub roots: Vec<String>,
    /// Configuration and tokenizer files.
    pub assets: Vec<Asset>,
    /// Program and version that wrote it.
    pub generator: String,
    /// What it was made from.
    pub source: serde_json::Value,
    /// How channels were equalised, or null.
    pub equalize: serde_json::Value,
    /// Whether the weights are random.
    pub synthetic: bool,
}

impl Manifest {
    /// A manifest of this version whose id is computed.
    pub fn new(architecture: Architecture, encoding: Encoding, files: Vec<FileEntry>) -> Manifest {
        Manifest {
            format: FORMAT.into(),
            version: FORMAT_VERSION,
            features: vec![],
            id: String::new(),
            architecture,
            encoding,
            files,
            roots: vec![".".into()],
            assets: vec![],
            generator: String::new(),
            source: serde_json::Value::Null,
            equalize: serde_json::Value::Null,
            synthetic: false,
        }
    }

    /// xxh3-128 over features, architecture, encoding, file digests and assets as compact JSON with sorted keys; where the
    /// files lie (`roots`) and who wrote them is left out.
    pub fn compute_id(&self) -> String {
        let identity = serde_json::json!({
            "version": self.version, "features": self.features, "architecture": self.architecture,
            "encoding": self.encoding, "files": self.files, "assets": self.assets,
        });
        digest(identity.to_string().as_bytes())
    }

    /// Reads and checks the manifest of `store`.
    pub fn read(store: &Path) -> Result<Manifest> {
        let path = store.join(MANIFEST);
        let text = read_capped(&path)?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| Error::format(&path, format!("the manifest is no JSON: {e}")))?;
        check_version(&path, &value)?;
        let manifest: Manifest = serde_json::from_value(value)
            .map_err(|e| Error::format(&path, format!("the manifest breaks its schema: {e}")))?;
        manifest.validate().map_err(|e| Error::format(&path, e))?;
        Ok(manifest)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        self.architecture.validate()?;
        self.encoding.validate(&self.architecture)?;
        if self.roots != ["."] {
            return Err(format!("roots is {:?}; this version reads stores in one directory (\".\")", self.roots));
        }
        if let Some(asset) = self.assets.iter().find(|a| !is_plain_name(&a.name)) {
            return Err(format!("asset {:?} is no plain file name", asset.name));
        }
        match self.compute_id() == self.id {
            true => Ok(()),
            false => Err(format!(
                "the id {} does not match the contents ({}); the manifest is damaged or was edited",
                self.id,
                self.compute_id()
            )),
        }
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != ".." && name != MANIFEST
}

fn read_capped(path: &Path) -> Result<String> {
    let file = super::open::open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(|e| Error::io("reading", path, e))?;
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(Error::format(path, format!("the manifest is above {MAX_MANIFEST} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| Error::format(path, format!("the manifest is not UTF-8: {e}")))
}

fn check_version(path: &Path, value: &serde_json::Value) -> Result<()> {
    if value["format"] != FORMAT {
        return Err(Error::format(
            path,
            format!("is no store manifest (format is {}, not \"{FORMAT}\")", value["format"]),
        ));
    }
    if value["version"] != FORMAT_VERSION {
        let what = format!(
            "is format version {}; this program reads version {FORMAT_VERSION}: update it or convert again",
            value["version"]
        );
        return Err(Error::Unsupported { path: path.into(), what });
    }
    match value["features"].as_array().and_then(|f| f.first()) {
        Some(unknown) => Err(Error::Unsupported {
            path: path.into(),
            what: format!("needs the feature {unknown}, which this version does not have; update it"),
        }),
        None => Ok(()),
    }
}

/// xxh3-128 in hex.
pub fn digest(bytes: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes))
}
