//! Positional reads, one after the other: works everywhere.

use super::{Done, Read, Reader, Source, ended};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::os::unix::fs::FileExt;

/// The synchronous engine; a read happens when it is waited for.
#[derive(Debug)]
pub struct Psync {
    sources: Vec<Source>,
    queue: VecDeque<Read>,
}

impl Psync {
    /// An engine over these files.
    pub fn new(sources: Vec<Source>) -> Psync {
        Psync { sources, queue: VecDeque::new() }
    }

    fn read(&self, read: &mut Read) -> Result<()> {
        let source = &self.sources[read.file];
        let mut offset = read.offset;
        for buffer in &mut read.buffers {
            let end = offset + buffer.len() as u64;
            source.file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => ended(source, end),
                _ => Error::io("reading", &source.path, e),
            })?;
            offset = end;
        }
        Ok(())
    }
}

impl Reader for Psync {
    fn submit(&mut self, batch: Vec<Read>) {
        self.queue.extend(batch);
    }

    /// A read takes place while it is waited for, so none has ended before.
    fn poll(&mut self) -> Option<Done> {
        None
    }

    fn wait(&mut self) -> Option<Done> {
        let mut read = self.queue.pop_front()?;
        let result = self.read(&mut read);
        Some(Done { token: read.token, result: result.map(|()| read.buffers) })
    }

    fn name(&self) -> &'static str {
        "psync"
    }
}
