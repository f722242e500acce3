//! A store whose files are opened one at a time, to be checked: what is wrong with one says nothing of the others.

use super::manifest::Manifest;
use super::open::Store;
use super::verify::{Finding, is_missing};
use crate::error::{Error, Result};
use std::path::Path;

/// A store of which the manifest is sound and every root is there; its files may be anything.
#[derive(Debug)]
pub struct Survey(Store);

impl Survey {
    /// Reads the manifest of a store and finds its roots.
    ///
    /// # Errors
    /// As [`Store::open`] for these.
    pub fn open(path: &Path) -> Result<Survey> {
        Ok(Survey(Store::closed(path)?))
    }

    /// The manifest, checked.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Checks one file of weights, or one asset, whole, as [`Store::verify`] does; one that is missing, cut or not what
    /// the manifest says is a finding as well.
    ///
    /// # Errors
    /// `Error::Usage` when the store has no such file, `Error::Io` where the system refuses to open one that is there.
    pub fn verify(&self, name: &str, progress: &mut dyn FnMut(u64) -> bool) -> Result<Vec<Finding>> {
        let Some(index) = self.0.manifest.files.iter().position(|file| file.name == name) else {
            return self.0.verify(name, progress);
        };
        match self.0.with_file(index) {
            Ok(store) => store.verify(name, progress),
            Err(error @ Error::Io { .. }) if !is_missing(&error) => Err(error),
            Err(error) => Ok(vec![error.into()]),
        }
    }
}
