//! What steps ask for, and what they are handed.

use crate::error::Error;
use crate::io::ALIGN;
use crate::mem::ReadLease;
use crate::tier::BlockId;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes of one section that a step needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Section they belong to, for the counters.
    pub section: usize,
    /// File they lie in.
    pub file: usize,
    /// First byte in the file.
    pub offset: u64,
    /// Length.
    pub len: usize,
    /// Where the tier keeps them, if it does.
    pub home: Option<Home>,
}

/// A block of the tier as the home of some of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The block.
    pub id: BlockId,
    /// Place of their first byte in it.
    pub at: usize,
    /// The block's size.
    pub size: usize,
}

impl Want {
    /// The block, where the want is all of it.
    pub fn whole(&self) -> Option<BlockId> {
        self.home.filter(|home| home.at == 0 && home.size == self.len).map(|home| home.id)
    }

    /// Some of it; the home of a part is the block's.
    fn part(&self, span: &Span) -> Want {
        let home = self.home.map(|home| Home { at: home.at + span.begin, ..home });
        Want { offset: self.offset + span.begin as u64, len: span.len, home, ..*self }
    }

    /// The read that covers it on whole pages: first byte, length, and where the want begins in it.
    pub(super) fn covered(&self) -> (u64, usize, usize) {
        let at = (self.offset % ALIGN as u64) as usize;
        (self.offset - at as u64, (at + self.len).next_multiple_of(ALIGN), at)
    }
}

/// Bytes of a block that one read brings: wanted records, and what lies between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte, counted in the block.
    pub begin: usize,
    /// Length.
    pub len: usize,
    /// Bytes of it that are wanted.
    pub useful: usize,
}

/// What a step needs of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The whole block.
    pub block: Want,
    /// What is wanted of it: rising spans, no two on one page. None: all of it.
    pub spans: Vec<Span>,
}

impl Pick {
    /// All of a block.
    pub fn all(block: Want) -> Pick {
        Pick { block, spans: vec![] }
    }

    /// Bytes that are wanted.
    pub(super) fn useful(&self) -> usize {
        match self.spans[..] {
            [] => self.block.len,
            _ => self.spans.iter().map(|span| span.useful).sum(),
        }
    }

    /// What has to be read for it, each with the bytes of it that are wanted.
    pub(super) fn reads(&self) -> Vec<(Want, usize)> {
        match self.spans[..] {
            [] => vec![(self.block, self.block.len)],
            _ => self.spans.iter().map(|span| (self.block.part(span), span.useful)).collect(),
        }
    }
}

/// Steps that ask for blocks in an order that is known beforehand, so that it can be read ahead.
pub trait Steps: Send {
    /// Steps of a round.
    fn count(&self) -> usize;
    /// What a step needs.
    fn picks(&self, step: usize) -> Arc<[Pick]>;
    /// The error of a read that failed, with the name of what was wanted.
    fn failed(&self, _want: &Want, error: Error) -> Error {
        error
    }
}

/// A want that is served: its bytes stay as they are while this lives.
#[derive(Debug)]
pub struct Held {
    pub(super) lease: ReadLease,
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Deref for Held {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.lease[self.at..self.at + self.len]
    }
}
