//! The directories of a striped store: the rule that spreads files over them, and the marker that says whose they are.

use super::manifest::{MANIFEST, Manifest};
use super::regular::read_capped;
use crate::error::{Error, Result, one_line, quoted};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The feature of stores whose files lie in more than one directory.
pub const FEATURE: &str = "roots";
/// File that says to which store a root belongs. The first root, the store itself, has the manifest instead.
pub const MARKER: &str = "m2cache-root.json";
/// What the marker's `format` field says.
const FORMAT: &str = "m2cache-root";
/// A marker above this is none of ours.
const MAX_MARKER: u64 = 4096;
/// The longest path Linux takes.
const MAX_ROOT: usize = 4096;

/// What lies in every root but the first: a wrong disk at its path is recognised by it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    format: String,
    id: String,
    root: usize,
}

impl Marker {
    fn new(id: &str, root: usize) -> Marker {
        Marker { format: FORMAT.into(), id: id.into(), root }
    }
}

/// The root of every file, layers first, from their sizes: layer i lies on root i mod `roots`, so that neighbours come
/// from different devices; embedding and head on the root with the fewest bytes of layers, the first of equals.
pub fn spread(bytes: &[u64], roots: usize) -> Vec<usize> {
    let layers = bytes.len().saturating_sub(1);
    let mut sums = vec![0u64; roots];
    let mut found: Vec<usize> = (0..layers).map(|layer| layer % roots).collect();
    bytes.iter().zip(&found).for_each(|(bytes, root)| sums[*root] = sums[*root].saturating_add(*bytes));
    found.extend((0..roots).min_by_key(|root| sums[*root]));
    found
}

/// The rules of `roots` and of the feature that goes with them.
pub fn validate(manifest: &Manifest) -> std::result::Result<(), String> {
    let (roots, features) = (&manifest.roots, &manifest.features);
    let broken = |rule: String| Err(format!("roots is {}: {rule}", one_line(&format!("{roots:?}"))));
    if roots.first().is_none_or(|first| first != ".") {
        return broken("the first is the store itself (\".\")".into());
    }
    if features.iter().map(String::as_str).ne((roots.len() > 1).then_some(FEATURE)) {
        return broken(format!("features names {FEATURE:?} once if there are several, else not at all"));
    }
    if roots.len() > manifest.files.len().max(1) {
        return broken(format!("these are more than its {} files", manifest.files.len()));
    }
    let mut seen = HashSet::new();
    let is_path = |root: &str| !root.is_empty() && root.len() <= MAX_ROOT && !root.contains(char::is_control);
    match roots.iter().find(|root| !is_path(root) || !seen.insert(root.as_str())) {
        Some(root) => broken(format!("{} is no path, or comes twice", quoted(root))),
        None => Ok(()),
    }
}

/// Where a root lies: as it is, or seen from the store.
fn place(store: &Path, root: &str) -> PathBuf {
    if root == "." { store.into() } else { store.join(root) }
}

/// The directories of a store whose manifest was checked, in order; every one but the first carries its marker.
///
/// # Errors
/// `Error::Root` naming a directory that is not there or has no marker, `Error::Format` for another's marker.
pub fn directories(store: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let found: Vec<PathBuf> = manifest.roots.iter().map(|root| place(store, root)).collect();
    for (index, path) in found.iter().enumerate().skip(1) {
        check_marker(store, path, &Marker::new(&manifest.id, index))?;
    }
    Ok(found)
}

fn check_marker(store: &Path, root: &Path, want: &Marker) -> Result<()> {
    let missing = |source| Error::Root { store: store.into(), root: root.into(), source };
    if !root.metadata().map_err(missing)?.is_dir() {
        return Err(missing(std::io::ErrorKind::NotADirectory.into()));
    }
    let path = root.join(MARKER);
    let bytes = read_capped(&path, MAX_MARKER).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            missing(std::io::Error::other(format!("it has no {MARKER}")))
        }
        other => other,
    })?;
    let have: Marker = serde_json::from_slice(&bytes)
        .map_err(|e| Error::format(&path, one_line(&format!("the marker breaks its schema: {e}"))))?;
    match have == *want {
        true => Ok(()),
        false => Err(Error::format(
            &path,
            format!(
                "marks root {} of the store {}; {} has root {} of the store {} there: is it another disk?",
                have.root,
                quoted(&have.id),
                store.join(MANIFEST).display(),
                want.root,
                quoted(&want.id)
            ),
        )),
    }
}

/// The text of the marker of a root.
pub fn marker(id: &str, root: usize) -> String {
    serde_json::json!(Marker::new(id, root)).to_string()
}

/// The directories outside of `store` that are there and carry its marker; none where its manifest cannot be read.
fn owned(store: &Path) -> Vec<PathBuf> {
    let Ok(manifest) = Manifest::read(store) else { return vec![] };
    let roots = manifest.roots.iter().enumerate().skip(1).map(|(index, root)| (index, place(store, root)));
    let ours = roots.filter(|(index, path)| check_marker(store, path, &Marker::new(&manifest.id, *index)).is_ok());
    ours.filter_map(|(_, path)| path.canonicalize().ok()).collect()
}

/// Removes the directories that `store` owns and `other` does not: the files a store has, never what else lies there.
/// Nothing where the manifest of `store` cannot be read.
pub fn remove_roots(store: &Path, other: &Path) -> Result<()> {
    let kept = owned(other);
    for root in owned(store).into_iter().filter(|root| !kept.contains(root)) {
        remove(&root).map_err(|e| Error::io("removing the replaced root", &root, e))?;
    }
    Ok(())
}

/// The marker goes last: a root without it would be nobody's.
fn remove(root: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = name == "embed.safetensors" || (name.starts_with("layer-") && name.ends_with(".safetensors"));
        if file {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_file(root.join(MARKER))?;
    match std::fs::remove_dir(root) {
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()), // the rest is the user's
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::spread;
    use proptest::prelude::*;

    #[test]
    fn layers_go_round_and_the_ends_fill_up() {
        assert_eq!(spread(&[5, 5, 5, 5], 1), [0, 0, 0, 0]);
        assert_eq!(spread(&[5, 5, 5, 5], 2), [0, 1, 0, 1]);
        assert_eq!(spread(&[5, 5, 5, 5], 3), [0, 1, 2, 0]);
        assert_eq!(spread(&[5, 5, 5, 5], 4), [0, 1, 2, 3]);
        assert_eq!(spread(&[1, 7, 7, 1, 9], 2), [0, 1, 0, 1, 0]);
    }

    proptest! {
        #[test]
        fn every_root_holds_something_and_neighbours_differ(bytes in prop::collection::vec(1u64.., 2..40), roots in 2usize..40) {
            prop_assume!(roots <= bytes.len());
            let found = spread(&bytes, roots);
            prop_assert_eq!(found.len(), bytes.len());
            prop_assert!((0..roots).all(|root| found.contains(&root)));
            prop_assert!(found[..bytes.len() - 1].windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}
