//! Reads under way, and those that have ended and wait to be asked for.

use super::want::{Held, Want};
use super::way::Way;
use crate::error::Result;
use crate::io::{Done, Late, Read, Reader};
use crate::mem::WriteLease;
use std::collections::HashMap;
use std::time::Duration;

/// The mark of a read; never used twice.
pub type ReadId = u64;

/// A read that has ended: its buffers, or why they are not full.
pub type Ended = (ReadId, Flight, Result<Vec<WriteLease>>);

/// A read under way.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// Who asked.
    pub way: Way,
    /// What it was begun for.
    pub want: Want,
    /// Bytes of it that are wanted.
    pub useful: usize,
    /// Whether it fills the block's own slot.
    pub own: bool,
}

/// A reader with a memory of what it was asked.
pub struct Flights {
    reader: Box<dyn Reader>,
    next: ReadId,
    /// Not handed to the reader yet: one call takes many.
    batch: Vec<Read>,
    flying: HashMap<ReadId, Flight>,
    landed: HashMap<ReadId, (Flight, Result<Held>)>,
}

impl Flights {
    pub fn new(reader: Box<dyn Reader>) -> Flights {
        Flights { reader, next: 0, batch: vec![], flying: HashMap::new(), landed: HashMap::new() }
    }

    /// Adds a read into a buffer, which has the length of what covers the want.
    pub fn add(&mut self, flight: Flight, buffer: WriteLease) -> ReadId {
        self.next += 1;
        let (offset, ..) = flight.want.covered();
        let (file, urgent) = (flight.want.file, flight.way != Way::Scheduled);
        self.batch.push(Read { file, offset, buffers: vec![buffer], token: self.next, urgent });
        self.flying.insert(self.next, flight);
        self.next
    }

    /// Hands what was added to the reader.
    pub fn launch(&mut self) {
        if !self.batch.is_empty() {
            self.reader.submit(std::mem::take(&mut self.batch));
        }
    }

    /// A read that has ended by now.
    pub fn ended(&mut self) -> Option<Ended> {
        let done = self.reader.poll()?;
        self.remember(done)
    }

    /// The read that ends next; none if nothing is under way.
    pub fn wait(&mut self) -> Option<Ended> {
        let done = self.reader.wait()?;
        self.remember(done)
    }

    /// The same, but late if that takes longer.
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<Ended>, Late> {
        let done = self.reader.wait_for(limit)?;
        Ok(done.and_then(|done| self.remember(done)))
    }

    /// A read that nobody remembers cannot be: its buffer would be let go.
    fn remember(&mut self, Done { token, result }: Done) -> Option<Ended> {
        self.flying.remove(&token).map(|flight| (token, flight, result))
    }

    /// Keeps the outcome of a read until it is asked for.
    pub fn keep(&mut self, token: ReadId, flight: Flight, outcome: Result<Held>) {
        self.landed.insert(token, (flight, outcome));
    }

    /// The outcome of a read, if it has ended.
    pub fn take(&mut self, token: ReadId) -> Option<Result<Held>> {
        self.landed.remove(&token).map(|(_, outcome)| outcome)
    }

    /// Whether a read has brought its bytes, and they wait to be asked for.
    pub fn is_here(&self, read: ReadId) -> bool {
        self.landed.get(&read).is_some_and(|(_, outcome)| outcome.is_ok())
    }

    /// Section and bytes of what has come, waits to be asked for and is lost if nobody does: a block's own slot keeps it.
    pub fn waiting(&self) -> impl Iterator<Item = (Way, usize, usize)> {
        let lost = self.landed.values().filter(|(flight, outcome)| !flight.own && outcome.is_ok());
        lost.map(|(flight, _)| (flight.way, flight.want.section, flight.useful))
    }

    /// Forgets every outcome that nobody of a way asked for.
    pub fn clear(&mut self, way: Way) {
        self.landed.retain(|_, (flight, _)| flight.way != way);
    }

    /// Whether a read is still under way.
    pub fn is_flying(&self, token: ReadId) -> bool {
        self.flying.contains_key(&token)
    }

    /// Whether any read of a way is.
    pub fn any_of(&self, way: Way) -> bool {
        self.flying.values().any(|flight| flight.way == way)
    }

    /// Whether any read is.
    pub fn any(&self) -> bool {
        !self.flying.is_empty()
    }

    /// The reader's name.
    pub fn engine(&self) -> &'static str {
        self.reader.name()
    }
}
