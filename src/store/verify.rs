//! Checking every byte of a store against its digests and checksums.

use super::catalog::SectionId;
use super::digest::{digest, digest_file};
use super::header::read_header_from;
use super::open::Store;
use super::regular::open_regular;
use crate::error::{Error, Result};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes read at a time.
const PIECE: usize = 4 << 20;
/// Damages listed per section before the rest is only counted.
const LISTED: usize = 100;

/// One damage: what is wrong, and where it can be told, in which records of which section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The whole story in one line.
    pub message: String,
    /// Section name, first record under the broken checksum, records under it.
    pub place: Option<(String, u64, u64)>,
}

impl From<Error> for Finding {
    fn from(error: Error) -> Finding {
        let message = match &error {
            Error::Io { path, .. } if is_missing(&error) => format!(
                "{}: the file is missing; put it back from a copy of this store, or convert the model again",
                path.display()
            ),
            _ => error.to_string(),
        };
        let place =
            if let Error::Damage { section, first, count, .. } = error { Some((section, first, count)) } else { None };
        Finding { message, place }
    }
}

/// Whether an error says that a file is not there.
pub fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

impl Store {
    /// Checks one file of weights, or one asset, whole; returns a finding per damage. `progress` is told bytes done
    /// and says whether to go on.
    ///
    /// # Errors
    /// `Error::Usage` when the store has no such file.
    pub fn verify(&self, name: &str, progress: &mut dyn FnMut(u64) -> bool) -> Result<Vec<Finding>> {
        if let Some(index) = self.files.iter().position(|f| f.layout.name == name) {
            return Ok(self.verify_weights(index, progress));
        }
        let Some(asset) = self.manifest.assets.iter().find(|a| a.name == name) else {
            return Err(Error::usage(format!("{} has no file {name:?}", self.path.display())));
        };
        let damage = self.asset_digest(name).map(|have| have != asset.digest);
        progress(asset.bytes);
        Ok(match damage {
            Ok(false) => vec![],
            Ok(true) => vec![Error::Digest { path: self.path.join(name), what: "the file".into() }.into()],
            Err(e) => vec![e.into()],
        })
    }

    fn asset_digest(&self, name: &str) -> Result<String> {
        digest_file(&self.path.join(name))
    }

    fn verify_weights(&self, index: usize, progress: &mut dyn FnMut(u64) -> bool) -> Vec<Finding> {
        let file = &self.files[index];
        let mut found = Vec::new();
        let mut note = |result: Result<()>| found.extend(result.err().map(Finding::from));
        note(self.verify_header(index));
        for vector in &file.layout.vectors {
            note(self.vector(file.layout.layer, &vector.name).map(|_| ()));
        }
        note(self.verify_fillers(index));
        for (id, section) in self.sections.iter().enumerate().filter(|(_, s)| s.file == index) {
            let id = SectionId(id as u32);
            let at = section.begin;
            match self.verify_section(id, &mut |done| progress(at + done)) {
                Ok(damages) => found.extend(damages),
                Err(e) => found.push(e.into()),
            }
        }
        progress(file.bytes);
        found
    }

    fn verify_header(&self, index: usize) -> Result<()> {
        let file = &self.files[index];
        let mut handle = open_regular(&file.path)?;
        let size = handle.metadata().map_err(|e| Error::io("reading", &file.path, e))?.len();
        let header = read_header_from(&mut handle, size, file.bytes - file.layout.data_bytes() - 8, &file.path)?;
        let entry = self.manifest.files.iter().find(|entry| entry.name == file.layout.name);
        match entry.is_some_and(|entry| entry.digest == digest(&header.raw)) {
            true => Ok(()),
            false => Err(Error::Digest { path: file.path.clone(), what: "the header".into() }),
        }
    }

    fn verify_fillers(&self, index: usize) -> Result<()> {
        let file = &self.files[index];
        let tensors = file.layout.tensors();
        let base = file.bytes - file.layout.data_bytes();
        for filler in tensors.iter().filter(|t| t.name.starts_with("filler.")) {
            let mut bytes = vec![0u8; filler.bytes as usize];
            self.read_at(index, base + filler.begin, &mut bytes)?;
            if bytes.iter().any(|b| *b != 0) {
                return Err(Error::format(&file.path, format!("{} is not all zero", filler.name)));
            }
        }
        Ok(())
    }

    fn verify_section(&self, id: SectionId, progress: &mut dyn FnMut(u64) -> bool) -> Result<Vec<Finding>> {
        let section = self.section(id);
        let layout = &section.layout;
        let (table, sound) = self.table(id)?;
        // The records are compared with a damaged table as well: that names the entries that were hit.
        let mut damages: Vec<Finding> = sound.err().map(Finding::from).into_iter().collect();
        let unit = layout.check * layout.stride;
        let units = (PIECE / unit).max(1);
        for first in (0..table.len()).step_by(units) {
            let count = units.min(table.len() - first);
            let records = (count * layout.check).min(layout.records - first * layout.check);
            let mut buffer = vec![0u8; records * layout.stride];
            self.read_at(section.file, section.begin + (first * unit) as u64, &mut buffer)?;
            damages.extend(self.compare(id, first, &buffer, &table[first..first + count]));
            if !progress(((first + count) * unit) as u64) {
                break;
            }
        }
        Ok(self.listed(id, damages))
    }

    fn listed(&self, id: SectionId, mut damages: Vec<Finding>) -> Vec<Finding> {
        let section = self.section(id);
        let more = damages.len().saturating_sub(LISTED);
        damages.truncate(LISTED);
        if more > 0 {
            let path = self.files[section.file].path.display();
            let message = format!("{path}: section {}: {more} more damaged places", section.layout.name);
            damages.push(Finding { message, place: None });
        }
        damages
    }

    /// All checksums of a section, and whether they match the digest that the header declares.
    fn table(&self, id: SectionId) -> Result<(Vec<u64>, Result<()>)> {
        let section = self.section(id);
        let file = &self.files[section.file];
        let table = self.checksums(id, 0, section.layout.checks())?;
        let bytes: Vec<u8> = table.iter().flat_map(|s| s.to_le_bytes()).collect();
        let declared = file.declared.sections.iter().find(|s| s.name == section.layout.name);
        let sound = match declared.is_some_and(|d| d.digest == digest(&bytes)) {
            true => Ok(()),
            false => Err(Error::Digest {
                path: file.path.clone(),
                what: format!("the checksum table of section {}", section.layout.name),
            }),
        };
        Ok((table, sound))
    }

    fn compare(&self, id: SectionId, first: usize, bytes: &[u8], stored: &[u64]) -> Vec<Finding> {
        let layout = &self.section(id).layout;
        let computed: Vec<u64> = bytes.par_chunks(layout.check * layout.stride).map(xxh3_64).collect();
        let pairs = stored.iter().zip(&computed).enumerate().filter(|(_, (s, c))| s != c);
        pairs.map(|(i, (s, c))| self.damage(id, first + i, *s, *c).into()).collect()
    }

    /// Checks records that were just read: `first` is a multiple of the section's unit, `bytes` whole records; with
    /// `again` the table they are checked against is not trusted from an earlier time.
    ///
    /// # Errors
    /// `Error::Damage` naming the first unit that differs; `Error::Digest` naming the table, if that is damaged and the
    /// records agree with it.
    pub fn check_records(&self, id: SectionId, first: usize, bytes: &[u8], again: bool) -> Result<()> {
        let layout = &self.section(id).layout;
        let unit = first / layout.check;
        let stored = self.checksums(id, unit, bytes.len().div_ceil(layout.check * layout.stride))?;
        self.compare_records(id, unit, bytes, stored)?;
        self.trust(id, again)
    }

    /// The same for records of a section whose checksums are one a record, listed by their ids.
    pub(super) fn check_listed(&self, id: SectionId, ids: &[u32], bytes: &[u8]) -> Result<()> {
        let layout = &self.section(id).layout;
        if layout.check != 1 {
            return Err(Error::Internal("listed records that share checksums"));
        }
        let stored = self.checksums(id, 0, layout.records)?;
        let records = bytes.par_chunks(layout.stride).zip(ids);
        let broken = records.find_map_first(|(bytes, unit)| {
            let (unit, computed) = (*unit as usize, xxh3_64(bytes));
            (computed != stored[unit]).then(|| self.damage(id, unit, stored[unit], computed))
        });
        broken.map_or_else(|| self.trust(id, false), Err)
    }

    /// Checks a section's table at its first use, or again: one that came with other records since is not ours.
    fn trust(&self, id: SectionId, again: bool) -> Result<()> {
        let trusted = &self.section(id).trusted;
        if again || trusted.get().is_none() {
            self.table(id)?.1?;
            trusted.get_or_init(|| ());
        }
        Ok(())
    }

    fn compare_records(&self, id: SectionId, unit: usize, bytes: &[u8], stored: Vec<u64>) -> Result<()> {
        let layout = &self.section(id).layout;
        for (i, (chunk, stored)) in bytes.chunks(layout.check * layout.stride).zip(stored).enumerate() {
            let computed = xxh3_64(chunk);
            if computed != stored {
                return Err(self.damage(id, unit + i, stored, computed));
            }
        }
        Ok(())
    }

    fn damage(&self, id: SectionId, unit: usize, stored: u64, computed: u64) -> Error {
        let section = self.section(id);
        let first = unit * section.layout.check;
        let count = section.layout.check.min(section.layout.records - first);
        Error::Damage {
            path: self.files[section.file].path.clone(),
            section: section.layout.name.clone(),
            first: first as u64,
            count: count as u64,
            stored,
            computed,
        }
    }
}
