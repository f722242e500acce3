//! `m2cache.json`: what makes a directory a store. Written last.

use super::canonical::digest_of;
use super::digest::digest_file;
use super::regular::read_capped;
use super::roots::{self, FEATURE};
use crate::config::{Architecture, Encoding};
use crate::error::{Error, Result, one_line, quoted};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;

/// File name of the manifest.
pub const MANIFEST: &str = "m2cache.json";
/// The one version of the format there is.
pub const FORMAT_VERSION: u32 = 1;
/// What the `format` field says.
const FORMAT: &str = "m2cache-store";
/// A manifest above this is an attack.
const MAX_MANIFEST: u64 = 4 << 20;
/// What the id is the hash of: all that determines the model's output, and nothing else. Of `features` that leaves out
/// "roots", so that a striped store and the same in one directory are the same store.
const IDENTITY: [&str; 6] = ["version", "features", "architecture", "encoding", "files", "assets"];

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
    let digest = digest_file(&path)?;
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
    /// xxh3-128 of the canonical text of version, features, architecture, encoding, files and assets: all that
    /// determines the model's output. Where the files lie and who wrote them is left out.
    pub id: String,
    /// xxh3-128 of the canonical text of everything else here: a manifest that was damaged or edited is seen.
    pub checksum: String,
    /// The model.
    pub architecture: Architecture,
    /// How its weights are coded and cut.
    pub encoding: Encoding,
    /// Files of weights, layers first.
    pub files: Vec<FileEntry>,
    /// Directories that hold files, seen from the store; the first is `.`, the store itself.
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
            checksum: String::new(),
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

    /// Sets features, id and checksum; the last thing to do to a manifest.
    ///
    /// # Errors
    /// The broken rule, if it could not be read again.
    pub fn seal(&mut self) -> std::result::Result<(), String> {
        self.features = (self.roots.len() > 1).then(|| FEATURE.into()).into_iter().collect();
        self.id = id_of(&serde_json::json!(self));
        self.checksum = checksum_of(&serde_json::json!(self));
        self.validate()
    }

    /// Reads and checks the manifest of `store`.
    pub fn read(store: &Path) -> Result<Manifest> {
        let path = store.join(MANIFEST);
        let bytes = read_capped(&path, MAX_MANIFEST)?;
        Manifest::parse(&bytes, &path)
    }

    /// Checks the bytes of a manifest; `path` is for messages.
    ///
    /// # Errors
    /// `Error::Unsupported` for another version or an unknown feature, `Error::Format` naming the broken rule.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Manifest> {
        let rule = |what: &str, e: &dyn std::fmt::Display| Error::format(path, one_line(&format!("{what}: {e}")));
        let text = std::str::from_utf8(bytes).map_err(|e| rule("the manifest is not UTF-8", &e))?;
        let value: Value = serde_json::from_str(text).map_err(|e| rule("the manifest is no JSON", &e))?;
        check_version(path, &value)?;
        let manifest: Manifest = serde_json::from_str(text).map_err(|e| rule("the manifest breaks its schema", &e))?;
        manifest.validate().map_err(|e| Error::format(path, e))?;
        manifest.architecture.refuse_unbuilt().map_err(|what| Error::Unsupported { path: path.into(), what })?;
        check_digests(&manifest, value).map_err(|e| Error::format(path, e))?;
        Ok(manifest)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        self.architecture.validate()?;
        self.encoding.validate(&self.architecture)?;
        roots::validate(&self.roots, &self.features, self.files.len())?;
        let mut names: HashSet<&str> = self.files.iter().map(|f| f.name.as_str()).chain([MANIFEST]).collect();
        for asset in &self.assets {
            if !is_plain_name(&asset.name) {
                return Err(format!("asset {} is no plain file name", quoted(&asset.name)));
            }
            if !names.insert(&asset.name) {
                return Err(format!("asset {} has the name of another file", quoted(&asset.name)));
            }
        }
        Ok(())
    }
}

fn id_of(manifest: &Value) -> String {
    let mut counted: serde_json::Map<_, _> =
        IDENTITY.iter().map(|name| ((*name).to_owned(), manifest[name].clone())).collect();
    if let Some(features) = counted["features"].as_array_mut() {
        features.retain(|name| name != FEATURE);
    }
    digest_of(&counted.into())
}

fn checksum_of(manifest: &Value) -> String {
    let mut rest = manifest.clone();
    if let Some(map) = rest.as_object_mut() {
        map.remove("checksum");
    }
    digest_of(&rest)
}

fn check_digests(manifest: &Manifest, value: Value) -> std::result::Result<(), String> {
    let id = id_of(&value);
    if id != manifest.id {
        return Err(format!(
            "the id {} does not match the contents ({id}); the manifest is damaged or was edited",
            quoted(&manifest.id)
        ));
    }
    match checksum_of(&value) == manifest.checksum {
        true => Ok(()),
        false => Err("the manifest does not match its checksum: it is damaged or was edited".into()),
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != ".."
}

fn check_version(path: &Path, value: &Value) -> Result<()> {
    let unsupported = |what: String| Err(Error::Unsupported { path: path.into(), what: one_line(&what) });
    if value["format"] != FORMAT {
        let found = format!("is no store manifest (format is {}, not {FORMAT:?})", value["format"]);
        return Err(Error::format(path, one_line(&found)));
    }
    if value["version"] != FORMAT_VERSION {
        return unsupported(format!(
            "is format version {}; this program reads version {FORMAT_VERSION}: update it or convert again",
            value["version"]
        ));
    }
    match value["features"].as_array().and_then(|f| f.iter().find(|name| *name != FEATURE)) {
        Some(unknown) => {
            unsupported(format!("needs the feature {unknown}, which this version does not have; update it"))
        }
        None => Ok(()),
    }
}
