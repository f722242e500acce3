//! A reader belongs to the process that opened it: a forked child has neither its threads nor its queues.

use super::{Done, Late, Read, Reader};
use crate::error::Error;
use std::time::Duration;

/// Guards an engine: in another process than the one it was made in it fails every read, and is not torn down.
pub struct Home {
    /// Some until it is dropped.
    reader: Option<Box<dyn Reader>>,
    name: &'static str,
    process: u32,
    refused: Vec<u64>,
}

impl Home {
    /// An engine of this process.
    pub fn new(reader: Box<dyn Reader>) -> Home {
        Home { name: reader.name(), reader: Some(reader), process: std::process::id(), refused: vec![] }
    }

    fn reader(&mut self) -> Option<&mut Box<dyn Reader>> {
        self.reader.as_mut().filter(|_| self.process == std::process::id())
    }

    fn refuse(&mut self) -> Option<Done> {
        let error = || Error::usage("the reader was opened before a fork; open the model in the process that uses it");
        self.refused.pop().map(|token| Done { token, result: Err(error()) })
    }
}

impl Reader for Home {
    fn submit(&mut self, batch: Vec<Read>) {
        match self.reader() {
            Some(reader) => reader.submit(batch),
            None => self.refused.extend(batch.iter().map(|read| read.token)),
        }
    }

    fn poll(&mut self) -> Option<Done> {
        match self.reader() {
            Some(reader) => reader.poll(),
            None => self.refuse(),
        }
    }

    fn wait(&mut self) -> Option<Done> {
        match self.reader() {
            Some(reader) => reader.wait(),
            None => self.refuse(),
        }
    }

    fn wait_for(&mut self, limit: Duration) -> Result<Option<Done>, Late> {
        match self.reader() {
            Some(reader) => reader.wait_for(limit),
            None => Ok(self.refuse()),
        }
    }

    fn name(&self) -> &'static str {
        self.name
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            std::mem::forget(self.reader.take());
        }
    }
}
