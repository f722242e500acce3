//! From picks to reads, and from reads to leases: the part of the fetcher that deals with the reader.

use super::ahead::{Begun, Reading};
use super::fetcher::{Check, Fetcher};
use super::flights::{Ended, Flight, ReadId};
use super::stop::TICK;
use super::want::{Held, Pick, Want};
use super::way::Way;
use crate::error::{Error, Result};
use crate::mem::{Run, WriteLease};
use crate::tier::Place;
use std::time::Instant;

/// A step's picks that the tier does not hold, with their index.
type Missing = Vec<(usize, Pick)>;

impl Fetcher {
    /// What is read for a step's missing picks: begun ahead, or now.
    pub(super) fn begun(&mut self, way: Way, step: usize, picks: &[Pick], check: Check) -> Result<Begun> {
        if let Some(begun) = self.lane(way).ahead.asked(step) {
            return Ok(begun);
        }
        if self.has_all(picks) {
            return Ok(Begun { step, bytes: 0, readings: vec![] });
        }
        // Not what was expected: begin anew from here.
        self.forget(way, check)?;
        self.lane(way).ahead.restart(Some(step));
        if let Some(begun) = self.begin_now(way, step)? {
            return Ok(begun);
        }
        // What an interrupted choice left under way may lie in a slot that this step reads into.
        self.forget(Way::Chosen, check)?;
        self.begin_now(way, step)?.ok_or(Error::Internal("a step wants more than the ring has"))
    }

    fn begin_now(&mut self, way: Way, step: usize) -> Result<Option<Begun>> {
        let missing = self.missing(way, step);
        self.begin(way, step, missing)
    }

    /// Waits for all reads of a step, also behind a failure. An interrupted step is put back.
    pub(super) fn awaited(&mut self, way: Way, begun: Begun, picks: &[Pick], check: Check) -> Result<Begun> {
        let wait = |one: &Reading| self.wait_for(&one.reads, picks[one.pick].block.section, check);
        match begun.readings.iter().try_for_each(wait) {
            Ok(()) => Ok(begun),
            Err(interrupted) => {
                self.lane(way).ahead.put_back(begun);
                Err(interrupted)
            }
        }
    }

    /// Waits for all that a way has under way and gives up what it read ahead.
    ///
    /// # Errors
    /// `Error::Interrupted`: nothing is given up then.
    pub(super) fn forget(&mut self, way: Way, check: Check) -> Result<()> {
        self.flights.launch();
        while self.flights.any_of(way) {
            let Some(ended) = self.next_ended()? else { break };
            self.land(ended, check);
        }
        self.clear(way);
        Ok(())
    }

    /// The same, whoever wants it to stop.
    pub(super) fn give_up(&mut self, way: Way, check: Check) {
        self.flights.launch();
        while self.flights.any_of(way) {
            let Some(ended) = self.flights.wait() else { break };
            self.land(ended, check);
        }
        self.clear(way);
    }

    /// The read that ends next; `Error::Interrupted` where the caller would rather stop.
    fn next_ended(&mut self) -> Result<Option<Ended>> {
        loop {
            if let Ok(ended) = self.flights.wait_for(TICK.saturating_sub(self.asked.elapsed())) {
                return Ok(ended);
            }
            if self.asked.elapsed() >= TICK {
                self.asked = Instant::now();
                if self.stop.is_wanted() {
                    return Err(Error::Interrupted);
                }
            }
        }
    }

    fn clear(&mut self, way: Way) {
        for (_, section, bytes) in self.flights.waiting().filter(|(of, ..)| *of == way) {
            self.stats.unused(section, bytes);
        }
        self.flights.clear(way);
        if way != Way::Single {
            self.lane(way).ahead.restart(None);
            self.reclaim(way);
        }
    }

    /// Takes back the frames that nobody reads or writes any more.
    fn reclaim(&mut self, way: Way) {
        let arena = self.arena.clone();
        self.lane(way).reclaim(&arena);
    }

    /// Begins the reads of the steps ahead, the chosen first, as far as rings and bound allow, and hands all to the
    /// reader.
    pub(super) fn advance(&mut self) -> Result<()> {
        self.advance_by(Way::Chosen)?;
        self.advance_by(Way::Scheduled)?;
        self.flights.launch();
        Ok(())
    }

    fn advance_by(&mut self, way: Way) -> Result<()> {
        self.reclaim(way);
        while let Some(step) = self.lane(way).ahead.next() {
            let missing = self.missing(way, step);
            let begun = match missing.is_empty() {
                true => None,
                false if !self.lane(way).ahead.has_room(bytes(&missing)) => break,
                false => match self.begin(way, step, missing)? {
                    None => break,
                    begun => begun,
                },
            };
            self.lane(way).ahead.looked(begun);
        }
        Ok(())
    }

    /// Begins to read what a step misses; none where there is no room for it now.
    fn begin(&mut self, way: Way, step: usize, missing: Missing) -> Result<Option<Begun>> {
        let Some(areas) = self.assign(way, &missing) else { return Ok(None) };
        let bytes = bytes(&missing);
        let readings = missing.into_iter().zip(areas).map(|((index, pick), (area, own))| {
            let reads = if own { self.read_slot(way, &pick, area) } else { self.read_spans(way, &pick, area) };
            Ok(Reading { pick: index, area, reads: reads? })
        });
        Ok(Some(Begun { step, bytes, readings: readings.collect::<Result<_>>()? }))
    }

    /// Reads all of a block into the slot that keeps it.
    fn read_slot(&mut self, way: Way, pick: &Pick, slot: Run) -> Result<Vec<ReadId>> {
        let flight = Flight { way, want: pick.block, useful: pick.block.len, own: true };
        Ok(vec![self.read_into(flight, slot)?])
    }

    /// Reads what is wanted of a block, each span to where it lies in the block.
    fn read_spans(&mut self, way: Way, pick: &Pick, area: Run) -> Result<Vec<ReadId>> {
        let read = |(want, useful): (Want, usize)| {
            let begin = (want.offset - pick.block.offset) as usize;
            let part = self.lane(way).part(area, begin, want.len);
            self.read_into(Flight { way, want, useful, own: false }, part)
        };
        pick.reads().into_iter().map(read).collect()
    }

    fn missing(&mut self, way: Way, step: usize) -> Missing {
        let picks = self.lane(way).steps.picks(step);
        picks.iter().cloned().enumerate().filter(|(_, pick)| !self.is_loaded(pick)).collect()
    }

    /// Whether the tier holds every block of some picks.
    pub(super) fn has_all(&self, picks: &[Pick]) -> bool {
        picks.iter().all(|pick| self.is_loaded(pick))
    }

    fn is_loaded(&self, pick: &Pick) -> bool {
        pick.block.whole().is_some_and(|id| matches!(self.dram.find(id), Place::Loaded(_)))
    }

    /// Where missing blocks go, their own slots (true) or frames of the ring; none where there is no place now.
    fn assign(&mut self, way: Way, missing: &[(usize, Pick)]) -> Option<Vec<(Run, bool)>> {
        let mut own: Vec<Option<Run>> = missing.iter().map(|(_, pick)| self.own_slot(pick)).collect();
        for slot in own.iter_mut().filter(|slot| slot.is_some_and(|run| !self.arena.is_idle(run))) {
            match way {
                // What is wanted now does not wait for what the other way reads into the slot just then.
                Way::Chosen => *slot = None,
                Way::Scheduled | Way::Single => return None,
            }
        }
        let ringed = missing.iter().zip(&own).filter(|(_, own)| own.is_none());
        let sizes: Vec<usize> = ringed.map(|((_, pick), _)| pick.block.covered().1).collect();
        let mut taken = self.lane(way).take(&sizes)?.into_iter();
        own.into_iter().map(|own| own.map(|run| (run, true)).or_else(|| Some((taken.next()?, false)))).collect()
    }

    fn own_slot(&self, pick: &Pick) -> Option<Run> {
        match self.dram.find(pick.block.whole()?) {
            Place::Reserved(slot) => Some(self.layout.fixed(slot)),
            _ => None,
        }
    }

    pub(super) fn read_into(&mut self, flight: Flight, run: Run) -> Result<ReadId> {
        let mut buffer = self.arena.write(run)?;
        let (_, len, _) = flight.want.covered();
        if buffer.len() < len {
            return Err(Error::Internal("a slot is smaller than what it has to hold"));
        }
        buffer.truncate(len);
        Ok(self.flights.add(flight, buffer))
    }

    /// What was read for a pick: one lease of the whole block.
    pub(super) fn gathered(&mut self, reading: &Reading, picks: &[Pick]) -> Result<Held> {
        let pick = &picks[reading.pick];
        let parts: Vec<Result<Held>> = reading.reads.iter().map(|read| self.outcome(*read)).collect();
        let mut parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        match pick.spans.is_empty() || parts.iter().any(|part| part.len == pick.block.len) {
            true => parts.pop().ok_or(Error::Internal("a pick of which nothing was read")),
            false => Ok(Held { lease: self.arena.read(reading.area)?, at: 0, len: pick.block.len }),
        }
    }

    /// Waits until some reads have ended.
    ///
    /// # Errors
    /// `Error::Interrupted`.
    pub(super) fn wait_for(&mut self, reads: &[ReadId], section: usize, check: Check) -> Result<()> {
        if !reads.iter().any(|read| self.flights.is_flying(*read)) {
            return Ok(());
        }
        let begin = Instant::now();
        let waited = self.land_all(reads, check);
        // What came with it is not waited for.
        self.land_ended(check);
        self.waited[section] += begin.elapsed();
        self.stats.stall(section);
        waited
    }

    fn land_all(&mut self, reads: &[ReadId], check: Check) -> Result<()> {
        for read in reads {
            while self.flights.is_flying(*read) {
                let Some(ended) = self.next_ended()? else { break };
                self.land(ended, check);
            }
        }
        Ok(())
    }

    /// The outcome of a read that has ended.
    pub(super) fn outcome(&mut self, read: ReadId) -> Result<Held> {
        self.flights.take(read).unwrap_or(Err(Error::Internal("a read ended without a result")))
    }

    /// Takes in what has ended by now.
    pub(super) fn land_ended(&mut self, check: Check) {
        while let Some(ended) = self.flights.ended() {
            self.land(ended, check);
        }
    }

    fn land(&mut self, (token, flight, result): Ended, check: Check) {
        let outcome = self.arrived(&flight, result, check);
        self.flights.keep(token, flight, outcome);
    }

    fn arrived(&mut self, flight: &Flight, result: Result<Vec<WriteLease>>, check: Check) -> Result<Held> {
        let want = &flight.want;
        let buffer = result
            .map_err(|e| self.failed(want, e))?
            .pop()
            .ok_or(Error::Internal("a read came back without its buffer"))?;
        let (_, came, at) = want.covered();
        self.stats.read(want.section, flight.useful, want.len, came);
        check(want, &buffer[at..at + want.len])?;
        if let Some(id) = want.whole().filter(|_| flight.own) {
            self.dram.loaded(id);
        }
        Ok(Held { lease: buffer.into_read(), at, len: want.len })
    }
}

fn bytes(missing: &[(usize, Pick)]) -> usize {
    missing.iter().map(|(_, pick)| pick.block.len).sum()
}
