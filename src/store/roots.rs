//! The directories of a striped store: what may be named as one, and the rule that spreads files over them.

use crate::error::{one_line, quoted};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The feature of stores whose files lie in more than one directory.
pub const FEATURE: &str = "roots";
/// The longest path Linux takes.
const MAX_ROOT: usize = 4096;

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

/// The rules of a manifest's `roots` and of the feature that goes with them; `files`: how many it lists.
pub fn validate(roots: &[String], features: &[String], files: usize) -> Result<(), String> {
    let broken = |rule: String| Err(format!("roots is {}: {rule}", one_line(&format!("{roots:?}"))));
    if roots.first().is_none_or(|first| first != ".") {
        return broken("the first is the store itself (\".\")".into());
    }
    if features.iter().map(String::as_str).ne((roots.len() > 1).then_some(FEATURE)) {
        return broken(format!("features names {FEATURE:?} once if there are several, else not at all"));
    }
    if roots.len() > files.max(1) {
        return broken(format!("these are more than its {files} files"));
    }
    let mut seen = HashSet::new();
    let is_path = |root: &str| !root.is_empty() && root.len() <= MAX_ROOT && !root.contains(char::is_control);
    match roots.iter().find(|root| !is_path(root) || !seen.insert(root.as_str())) {
        Some(root) => broken(format!("{} is no path, or comes twice", quoted(root))),
        None => Ok(()),
    }
}

/// Where a root lies: as it is, or seen from the store.
pub fn place(store: &Path, root: &str) -> PathBuf {
    if root == "." { store.into() } else { store.join(root) }
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
