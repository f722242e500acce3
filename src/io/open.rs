//! Choosing an engine: io_uring where the system allows it, threads where not, and a sentence for whatever is missing.

use super::faults::Faults;
use super::faulty::Faulty;
use super::handle::Handle;
use super::home::Home;
use super::psync::Psync;
use super::uring::{Denied, Uring};
use super::window::Portion;
use super::{Reader, Source};
use crate::error::{Error, Result};
use crate::mem::Arena;
use std::sync::Arc;

/// Denies io_uring when it is `off`: to compare the engines, or to keep clear of a kernel's faults.
const SWITCH: &str = "M2CACHE_IO_URING";

/// Which engine is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring where it is allowed, else threads.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Threads.
    Psync,
}

impl Choice {
    /// The choice of that name: auto, uring, psync.
    ///
    /// # Errors
    /// `Error::Usage` for other names.
    pub fn parse(name: &str) -> Result<Choice> {
        match name {
            "auto" => Ok(Choice::Auto),
            "uring" => Ok(Choice::Uring),
            "psync" => Ok(Choice::Psync),
            _ => Err(Error::usage(format!("io {name:?}; auto, uring and psync are known"))),
        }
    }
}

/// An engine that is ready, and what the user should know about it.
pub struct Opened {
    /// The engine.
    pub reader: Box<dyn Reader>,
    /// One sentence for everything that is not as fast as it could be, or not as it should be: what and why.
    pub notes: Vec<String>,
}

/// Opens an engine over files, to read into slots of `arena`.
///
/// # Errors
/// `Error::Usage` when io_uring was asked for by name and is denied, for a bad `M2CACHE_FAULTS` or
/// `M2CACHE_IO_URING`, and where the system allows no threads.
pub fn open(choice: Choice, sources: Vec<Source>, arena: &Arc<Arena>) -> Result<Opened> {
    Settings::from_environment()?.open(choice, sources, arena)
}

/// What the environment says about reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) faults: Faults,
    pub(super) denied: bool,
}

impl Settings {
    fn from_environment() -> Result<Settings> {
        let denied = match std::env::var(SWITCH).as_deref() {
            Err(std::env::VarError::NotPresent) | Ok("") => false,
            Ok("off") => true,
            other => return Err(Error::usage(format!("{SWITCH}={other:?}: the only value it can have is off"))),
        };
        Ok(Settings { faults: Faults::from_environment()?, denied })
    }

    pub(super) fn open(&self, choice: Choice, sources: Vec<Source>, arena: &Arc<Arena>) -> Result<Opened> {
        let paths = sources.iter().map(|s| s.path.clone()).collect();
        let (handles, mut notes) = Handle::open_all(sources)?;
        let mut reader = self.engine(choice, handles, arena, &mut notes)?;
        if !self.faults.is_none() {
            notes.push(format!("faults are injected into reads: {}", self.faults));
            reader = Box::new(Faulty::new(reader, self.faults.clone(), paths));
        }
        Ok(Opened { reader: Box::new(Home::new(reader)), notes })
    }

    fn engine(
        &self,
        choice: Choice,
        handles: Arc<Vec<Handle>>,
        arena: &Arc<Arena>,
        notes: &mut Vec<String>,
    ) -> Result<Box<dyn Reader>> {
        let portion = if self.faults.short { Portion::Half } else { Portion::Whole };
        if choice == Choice::Psync {
            return Ok(Box::new(Psync::new(handles, portion)?));
        }
        let denied = match self.uring(handles.clone(), portion, arena) {
            Ok((uring, note)) => {
                notes.extend(note);
                return Ok(Box::new(uring));
            }
            Err(denied) => denied,
        };
        match choice {
            Choice::Uring => Err(Error::usage(format!(
                "io uring: io_uring cannot be used here ({denied}); take io psync, or auto, which falls back by itself"
            ))),
            _ => {
                notes.push(format!("reading with threads (psync), since io_uring cannot be used here: {denied}"));
                Ok(Box::new(Psync::new(handles, portion)?))
            }
        }
    }

    fn uring(
        &self,
        handles: Arc<Vec<Handle>>,
        portion: Portion,
        arena: &Arc<Arena>,
    ) -> Result<(Uring, Option<String>), Denied> {
        match self.denied {
            true => Err(Denied::Asked),
            false => Uring::new(handles, portion, arena),
        }
    }
}
