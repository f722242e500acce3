//! Faults on request: what `M2CACHE_FAULTS` asks for. Tests of programs inject them this way, from outside.

use crate::error::{Error, Result};
use std::fmt;
use std::time::Duration;

/// The variable.
const NAME: &str = "M2CACHE_FAULTS";
const KNOWN: &str = "a list, separated by commas, of eio=N (the Nth read fails), eio=N.. (and all after it), short, slow=TIME (2ms, 1s) and reverse";

/// What goes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The first read that fails with EIO, counted from 1 in the order of submission, and the last.
    pub eio: Option<(u64, u64)>,
    /// Every call reads half of what is left.
    pub short: bool,
    /// The least time between the submission and the end of a read.
    pub slow: Duration,
    /// Results come last first, once everything submitted has ended.
    pub reverse: bool,
}

impl Faults {
    /// What the environment asks for; nothing where it does not.
    pub fn from_environment() -> Result<Faults> {
        match std::env::var_os(NAME) {
            Some(text) => Faults::parse(&text.to_string_lossy()),
            None => Ok(Faults::default()),
        }
    }

    /// Whether nothing goes wrong.
    pub fn is_none(&self) -> bool {
        *self == Faults::default()
    }

    /// Parses a list of faults.
    ///
    /// # Errors
    /// `Error::Usage` with the item that is none.
    pub fn parse(text: &str) -> Result<Faults> {
        let mut faults = Faults::default();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            faults.add(item).ok_or_else(|| Error::usage(format!("{NAME}: {item:?} is no fault; it takes {KNOWN}")))?;
        }
        Ok(faults)
    }

    fn add(&mut self, item: &str) -> Option<()> {
        match item.split_once('=') {
            None if item == "short" => self.short = true,
            None if item == "reverse" => self.reverse = true,
            Some(("eio", which)) => self.eio = Some(range(which)?),
            Some(("slow", time)) => self.slow = duration(time)?,
            _ => return None,
        }
        Some(())
    }
}

fn range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = match text.strip_suffix("..") {
        Some(first) => (first.parse().ok()?, u64::MAX),
        None => (text.parse().ok()?, text.parse().ok()?),
    };
    (first > 0).then_some((first, last))
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let count: u32 = text[..unit].parse().ok()?;
    let unit = match &text[unit..] {
        "us" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        _ => return None,
    };
    Some(unit * count)
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match self.eio {
            Some((first, u64::MAX)) => parts.push(format!("eio={first}..")),
            Some((first, _)) => parts.push(format!("eio={first}")),
            None => {}
        }
        parts.extend(self.short.then(|| "short".into()));
        parts.extend((!self.slow.is_zero()).then(|| format!("slow={:?}", self.slow)));
        parts.extend(self.reverse.then(|| "reverse".into()));
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_from_text_and_told_as_text() {
        let all = Faults { eio: Some((3, u64::MAX)), short: true, slow: Duration::from_millis(2), reverse: true };
        assert_eq!(Faults::parse("reverse,slow=2ms,short,eio=3..").unwrap(), all);
        assert_eq!(Faults::parse(&all.to_string()).unwrap(), all);
        assert_eq!(Faults::parse("eio=7").unwrap().eio, Some((7, 7)));
        assert!(Faults::parse("").unwrap().is_none());
    }

    #[test]
    fn anything_else_is_an_error_that_names_the_item() {
        for bad in
            ["eio", "eio=0", "eio=-1", "eio=..3", "slow", "slow=2", "slow=ms", "slow=99999999999s", "Short", "x=1"]
        {
            let message = Faults::parse(&format!("short,{bad}")).unwrap_err().to_string();
            assert!(message.contains(&format!("{bad:?}")) && message.contains("eio=N"), "{message}");
        }
    }
}
