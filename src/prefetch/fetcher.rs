//! Demand reads: one batch per step.

use crate::error::{Error, Result};
use crate::io::{Done, Read, Reader};
use crate::mem::{Arena, ReadLease, SlotId};
use crate::tier::{BlockId, Dram, Place, Stats};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes a step needs.
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
    /// The block that holds them, if the tier keeps it, with the place of the first byte in it and the block's size.
    pub block: Option<(BlockId, usize, usize)>,
}

impl Want {
    /// Whether the want is exactly its block.
    fn is_whole(&self) -> bool {
        self.block.is_some_and(|(_, at, size)| at == 0 && size == self.len)
    }
}

/// A want that is served: its bytes stay as they are while this lives.
#[derive(Debug)]
pub struct Held {
    lease: ReadLease,
    at: usize,
    len: usize,
}

impl Deref for Held {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.lease[self.at..self.at + self.len]
    }
}

/// The tier, its memory and the reader that fills it.
pub struct Fetcher {
    dram: Dram,
    arena: Arc<Arena>,
    reader: Box<dyn Reader>,
    stats: Stats,
    waited: Duration,
}

impl Fetcher {
    /// Allocates the tier's slots.
    pub fn new(dram: Dram, reader: Box<dyn Reader>, sections: usize) -> Result<Fetcher> {
        let arena = Arena::new(&[dram.slots()])?;
        Ok(Fetcher { dram, arena, reader, stats: Stats::new(sections), waited: Duration::ZERO })
    }

    /// Serves all wants of a step, in order. `check` sees every want that was just read before anyone uses it.
    ///
    /// The ring holds one step: what an earlier step returned must be dropped before.
    ///
    /// # Errors
    /// The reader's or `check`'s; nothing that failed is kept, and the fetcher stays usable.
    pub fn fetch(&mut self, wants: &[Want], check: &mut dyn FnMut(&Want, &[u8]) -> Result<()>) -> Result<Vec<Held>> {
        let mut held: Vec<Option<Held>> = wants.iter().map(|w| self.hit(w)).collect::<Result<_>>()?;
        let missing: Vec<usize> = (0..wants.len()).filter(|i| held[*i].is_none()).collect();
        if !missing.is_empty() {
            self.read(wants, &missing, &mut held, check)?;
        }
        held.into_iter().map(|h| h.ok_or(Error::Internal("a read ended without a result"))).collect()
    }

    fn hit(&mut self, want: &Want) -> Result<Option<Held>> {
        let Some((block, at, _)) = want.block else { return Ok(None) };
        let Place::Loaded(slot) = self.dram.find(block) else { return Ok(None) };
        self.stats.hit(want.section, want.len);
        Ok(Some(Held { lease: self.arena.read(SlotId(slot))?, at, len: want.len }))
    }

    fn read(
        &mut self,
        wants: &[Want],
        missing: &[usize],
        held: &mut [Option<Held>],
        check: &mut dyn FnMut(&Want, &[u8]) -> Result<()>,
    ) -> Result<()> {
        // A step that ended in a panic may have left reads behind; their marks are not ours.
        while self.reader.wait().is_some() {}
        let batch = self.batch(wants, missing)?;
        let begin = Instant::now();
        self.reader.submit(batch);
        let mut outcome = Ok(());
        // Every read is waited for, also behind a failure: its buffer must be back before the step ends.
        while let Some(done) = self.reader.wait() {
            let token = done.token as usize;
            match self.arrived(&wants[token], done, check) {
                Ok(result) => held[token] = Some(result),
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        self.waited += begin.elapsed();
        outcome
    }

    fn batch(&self, wants: &[Want], missing: &[usize]) -> Result<Vec<Read>> {
        let slots = self.assign(wants, missing)?;
        let read = |(index, slot): (&usize, u32)| {
            let want = &wants[*index];
            let mut buffer = self.arena.write(SlotId(slot))?;
            if buffer.len() < want.len {
                return Err(Error::Internal("a slot is smaller than what it has to hold"));
            }
            buffer.truncate(want.len);
            Ok(Read { file: want.file, offset: want.offset, buffers: vec![buffer], token: *index as u64 })
        };
        missing.iter().zip(slots).map(read).collect()
    }

    /// The slot of every missing want: its own, or the next ring slot, largest want first.
    fn assign(&self, wants: &[Want], missing: &[usize]) -> Result<Vec<u32>> {
        let mut slots: Vec<Option<u32>> = missing.iter().map(|i| self.own_slot(&wants[*i])).collect();
        let mut ringed: Vec<usize> = (0..missing.len()).filter(|i| slots[*i].is_none()).collect();
        if ringed.len() > self.dram.ring() {
            return Err(Error::Internal("a step wants more than the ring has slots"));
        }
        ringed.sort_by_key(|i| std::cmp::Reverse(wants[missing[*i]].len));
        for (slot, i) in ringed.into_iter().enumerate() {
            slots[i] = Some(slot as u32);
        }
        Ok(slots.into_iter().flatten().collect())
    }

    fn own_slot(&self, want: &Want) -> Option<u32> {
        let (block, ..) = want.block.filter(|_| want.is_whole())?;
        if let Place::Reserved(slot) = self.dram.find(block) { Some(slot) } else { None }
    }

    fn arrived(&mut self, want: &Want, done: Done, check: &mut dyn FnMut(&Want, &[u8]) -> Result<()>) -> Result<Held> {
        let buffer = done.result?.pop().ok_or(Error::Internal("a read came back without its buffer"))?;
        self.stats.read(want.section, want.len);
        check(want, &buffer)?;
        if let Some((block, ..)) = want.block.filter(|_| want.is_whole()) {
            self.dram.loaded(block);
        }
        Ok(Held { lease: buffer.into_read(), at: 0, len: want.len })
    }

    /// Counters so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Time spent waiting for reads.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The placement.
    pub fn dram(&self) -> &Dram {
        &self.dram
    }

    /// The reader's name.
    pub fn engine(&self) -> &'static str {
        self.reader.name()
    }
}
