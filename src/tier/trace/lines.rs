//! The lines behind the first, one at a time, so that memory does not grow with the recording.

use super::header::Header;
use crate::error::{Error, Result, one_line, quoted};
use crate::tier::BlockId;
use std::io::{BufRead, Read};
use std::path::PathBuf;

/// Longest line that is read: the header of a sparse model is the longest, and stays below 1 MiB.
const LONGEST: u64 = 16 << 20;

/// What the rows of a pass are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A prompt's.
    Prompt,
    /// Generated tokens.
    Decode,
    /// Drafts to be verified.
    Draft,
}

/// A line behind the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A pass through the model begins.
    Pass {
        /// What its rows are.
        kind: Kind,
        /// How many.
        rows: u32,
    },
    /// Blocks that were leased together, and whether each was read from the store then.
    Step(Vec<(BlockId, bool)>),
}

/// A trace that is being read.
#[derive(Debug)]
pub struct Trace<R> {
    /// What the first line says.
    pub header: Header,
    text: Text<R>,
    blocks: u32,
    in_pass: bool,
}

/// The file as lines.
#[derive(Debug)]
struct Text<R> {
    input: R,
    path: PathBuf,
    number: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Trace<R> {
    /// Reads the header; `path` is for messages.
    ///
    /// # Errors
    /// `Error::Trace` naming the line and the broken rule, `Error::Io`.
    pub fn new(input: R, path: PathBuf) -> Result<Trace<R>> {
        let mut text = Text { input, path, number: 0, line: vec![] };
        if !text.advance()? {
            return Err(text.broken("the file is empty".into()));
        }
        let header = Header::parse(&text.line).map_err(|rule| text.broken(rule))?;
        let blocks = header.block_count() as u32;
        Ok(Trace { header, text, blocks, in_pass: false })
    }

    /// The next line, none at the end. Errors as `new`.
    pub fn next_line(&mut self) -> Result<Option<Line>> {
        if !self.text.advance()? {
            return Ok(None);
        }
        let text = std::str::from_utf8(&self.text.line).map_err(|_| "is not UTF-8".to_string());
        let line = text.and_then(|text| self.parse(text)).map_err(|rule| self.text.broken(rule))?;
        self.in_pass = true;
        Ok(Some(line))
    }

    fn parse(&self, text: &str) -> std::result::Result<Line, String> {
        if let Some((word, rows)) = text.split_once(' ')
            && let Some(kind) = Kind::from_name(word)
        {
            let count = number(rows).filter(|n| *n > 0);
            let rows = count.ok_or_else(|| format!("says {} where the rows of a pass belong", quoted(rows)))?;
            return Ok(Line::Pass { kind, rows });
        }
        if !self.in_pass {
            return Err("comes before any pass (prompt, decode or draft)".into());
        }
        text.split(' ').map(|word| self.access(word)).collect::<std::result::Result<_, _>>().map(Line::Step)
    }

    fn access(&self, word: &str) -> std::result::Result<(BlockId, bool), String> {
        let (digits, read) = word.strip_suffix('*').map_or((word, false), |digits| (digits, true));
        match number(digits) {
            Some(block) if block < self.blocks => Ok((BlockId(block), read)),
            Some(block) => Err(format!("names block {block} of {}", self.blocks)),
            None => Err(format!("has {} where the number of a block belongs", quoted(word))),
        }
    }
}

impl<R: BufRead> Text<R> {
    /// Reads the next line, without its end; false at the end of the file.
    fn advance(&mut self) -> Result<bool> {
        self.line.clear();
        self.number += 1;
        let mut input = self.input.by_ref().take(LONGEST);
        input.read_until(b'\n', &mut self.line).map_err(|e| Error::io("reading", &self.path, e))?;
        match self.line.pop() {
            None => Ok(false),
            Some(b'\n') => Ok(true),
            Some(_) if self.line.len() as u64 + 1 == LONGEST => {
                Err(self.broken(format!("is longer than {LONGEST} bytes")))
            }
            Some(_) => Err(self.broken("has no end: the recording was cut off here; remove this line".into())),
        }
    }

    fn broken(&self, rule: String) -> Error {
        Error::Trace { path: self.path.clone(), line: self.number, rule: one_line(&rule) }
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Prompt, Kind::Decode, Kind::Draft];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Prompt => "prompt",
            Kind::Decode => "decode",
            Kind::Draft => "draft",
        }
    }

    fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A number in digits alone: no sign, no spaces.
fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}
