//! Steps in, leased bytes out; reads run ahead of the steps.

use super::ahead::{Ahead, Begun};
use super::flights::{Flight, Flights, ReadId};
use super::layout::Layout;
use super::want::{Held, Steps, Want};
use crate::error::{Error, Result};
use crate::io::Reader;
use crate::mem::{Arena, Run, WriteLease};
use crate::tier::{BlockId, Dram, Place, Ring, Stats, frames};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Checks a want that was just read, before anyone uses it.
pub type Check<'a> = &'a mut dyn FnMut(&Want, &[u8]) -> Result<()>;

/// One access to a block, as a trace keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The block.
    pub block: BlockId,
    /// Whether it was in the tier.
    pub hit: bool,
    /// Whether it is the first of its step: what a step asks for is leased together.
    pub first: bool,
}

/// The tier, its memory and the reader that fills it.
pub struct Fetcher {
    dram: Dram,
    ring: Ring,
    layout: Layout,
    arena: Arc<Arena>,
    flights: Flights,
    steps: Box<dyn Steps>,
    ahead: Ahead,
    stats: Stats,
    waited: Vec<Duration>,
    trace: Option<Vec<Access>>,
}

impl Fetcher {
    /// A fetcher over the slots of `arena`, which `layout.arena(&dram)` made. `lookahead` bounds the bytes read ahead;
    /// `sections` counts those that wants name.
    pub fn new(
        dram: Dram,
        layout: Layout,
        arena: Arc<Arena>,
        reader: Box<dyn Reader>,
        steps: Box<dyn Steps>,
        sections: usize,
        lookahead: usize,
    ) -> Fetcher {
        Fetcher {
            dram,
            ring: Ring::new(layout.ring),
            layout,
            arena,
            flights: Flights::new(reader),
            ahead: Ahead::new(steps.count(), lookahead),
            steps,
            stats: Stats::new(sections),
            waited: vec![Duration::ZERO; sections],
            trace: None,
        }
    }

    /// Says which steps the coming passes take, rising; others are not read ahead.
    pub fn follow(&mut self, ranges: impl IntoIterator<Item = Range<usize>>) {
        self.ahead.follow(ranges);
    }

    /// Serves all wants of a step, in order, and begins to read for the steps that follow it.
    ///
    /// What the ring holds of earlier steps must have been dropped, unless the tier [`Fetcher::holds`] this one.
    ///
    /// # Errors
    /// The reader's or `check`'s; nothing that failed is kept, and the fetcher stays usable.
    pub fn fetch(&mut self, step: usize, check: Check) -> Result<Vec<Held>> {
        let held = self.step(step, check);
        if held.is_err() {
            // No outcome may be left behind that nobody asks for: its frames would never come back.
            self.forget(check);
        }
        held
    }

    fn step(&mut self, step: usize, check: Check) -> Result<Vec<Held>> {
        if self.is_settled() {
            let wants = self.steps.wants(step);
            if self.trace.is_some() {
                self.note(&wants, &wants.iter().map(|_| None).collect::<Vec<_>>());
            }
            return wants.iter().map(|want| self.served(want, None)).collect();
        }
        self.land_ended(check);
        let wants = self.steps.wants(step);
        let reads = self.begun(step, &wants, check)?;
        self.advance()?;
        let came =
            reads.iter().map(|(index, token)| self.outcome(*token, wants[*index].section, check)).collect::<Vec<_>>();
        let mut held: Vec<Option<Held>> = wants.iter().map(|_| None).collect();
        for ((index, _), outcome) in reads.iter().zip(came) {
            held[*index] = Some(outcome?);
        }
        self.note(&wants, &held);
        wants.iter().zip(held).map(|(want, held)| self.served(want, held)).collect()
    }

    /// Serves wants outside of the order, such as those of the embedding, together: a slot for single records is each
    /// one's, in turn.
    ///
    /// # Errors
    /// As `fetch`; `Error::Internal` for more wants than there are such slots.
    pub fn fetch_singles(&mut self, wants: &[Want], check: Check) -> Result<Vec<Held>> {
        let held = self.singles(wants, check);
        if held.is_err() {
            self.forget(check);
        }
        held
    }

    fn singles(&mut self, wants: &[Want], check: Check) -> Result<Vec<Held>> {
        if wants.len() > self.layout.singles.len() {
            return Err(Error::Internal("more single records at once than have slots"));
        }
        let mut reads = Vec::with_capacity(wants.len());
        for (index, want) in wants.iter().enumerate() {
            let loaded = want.home.is_some_and(|home| matches!(self.dram.find(home.id), Place::Loaded(_)));
            reads.push(match loaded {
                true => None,
                false => {
                    let flight = Flight { want: *want, own: false };
                    Some(self.read_into(flight, self.layout.single(index))?)
                }
            });
        }
        self.flights.launch();
        // Every read is waited for, also behind a failure: its slot must be free for the next row.
        let came =
            reads.iter().zip(wants).map(|(read, want)| read.map(|token| self.outcome(token, want.section, check)));
        let came: Vec<Option<Result<Held>>> = came.collect();
        let held = came.into_iter().map(Option::transpose).collect::<Result<Vec<_>>>()?;
        wants.iter().zip(held).map(|(want, held)| self.served(want, held)).collect()
    }

    /// The reads of a step's missing wants: begun ahead, or now.
    fn begun(&mut self, step: usize, wants: &[Want], check: Check) -> Result<Vec<(usize, ReadId)>> {
        if let Some(begun) = self.ahead.asked(step) {
            return Ok(begun.reads);
        }
        if wants.iter().all(|want| self.is_loaded(want)) {
            return Ok(vec![]);
        }
        // Not what was expected: begin anew from here.
        self.forget(check);
        self.ahead.restart(Some(step));
        let begun = self.begin(step, self.missing(step))?;
        begun.map(|begun| begun.reads).ok_or(Error::Internal("a step wants more than the ring has"))
    }

    /// Waits for all that is under way and gives up what was read ahead.
    fn forget(&mut self, check: Check) {
        self.flights.launch();
        while self.flights.any() {
            let Some(ended) = self.flights.ended(true) else { break };
            self.land(ended, check);
        }
        for (section, bytes) in self.waiting() {
            self.stats.unused(section, bytes);
        }
        self.ahead.restart(None);
        self.flights.clear();
        self.reclaim();
    }

    /// Section and bytes of what was read ahead and waits for its step.
    fn waiting(&self) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for begun in self.ahead.begun() {
            let wants = self.steps.wants(begun.step);
            let landed = begun.reads.iter().filter(|(_, token)| self.flights.is_here(*token)).map(|(i, _)| &wants[*i]);
            // A block with a slot of its own is not lost.
            found.extend(landed.filter(|want| !self.is_loaded(want)).map(|want| (want.section, want.len)));
        }
        found
    }

    /// Takes back the frames that nobody reads or writes any more.
    fn reclaim(&mut self) {
        self.ring.reclaim(|frames| self.arena.is_idle(self.layout.frames(frames)));
    }

    /// Begins the reads of the steps ahead, as far as the ring and the bound allow, and hands all to the reader.
    fn advance(&mut self) -> Result<()> {
        self.reclaim();
        while let Some(step) = self.ahead.next() {
            let missing = self.missing(step);
            let begun = match missing.is_empty() {
                true => None,
                false if !self.ahead.has_room(bytes(&missing)) => break,
                false => match self.begin(step, missing)? {
                    None => break,
                    begun => begun,
                },
            };
            self.ahead.looked(begun);
        }
        self.flights.launch();
        Ok(())
    }

    /// Begins to read what a step misses; none where there is no room for it now.
    fn begin(&mut self, step: usize, missing: Vec<(usize, Want)>) -> Result<Option<Begun>> {
        let Some(runs) = self.assign(&missing) else { return Ok(None) };
        let bytes = bytes(&missing);
        let begun = missing
            .into_iter()
            .zip(runs)
            .map(|((i, want), (run, own))| Ok((i, self.read_into(Flight { want, own }, run)?)));
        Ok(Some(Begun { step, bytes, reads: begun.collect::<Result<_>>()? }))
    }

    /// Whether all that a step wants is in the tier.
    pub fn holds(&self, step: usize) -> bool {
        self.is_settled() || self.steps.wants(step).iter().all(|want| self.is_loaded(want))
    }

    /// Whether all is in the tier and nothing under way: then there is nothing to look ahead for.
    fn is_settled(&self) -> bool {
        self.dram.is_complete() && self.ahead.begun().next().is_none() && !self.flights.any()
    }

    fn missing(&self, step: usize) -> Vec<(usize, Want)> {
        let wants = self.steps.wants(step);
        wants.iter().copied().enumerate().filter(|(_, want)| !self.is_loaded(want)).collect()
    }

    fn is_loaded(&self, want: &Want) -> bool {
        want.whole().is_some_and(|id| matches!(self.dram.find(id), Place::Loaded(_)))
    }

    /// Where missing wants go, their own slots (true) or frames of the ring; none where one of them is taken.
    fn assign(&mut self, missing: &[(usize, Want)]) -> Option<Vec<(Run, bool)>> {
        let own: Vec<Option<Run>> = missing.iter().map(|(_, want)| self.own_slot(want)).collect();
        if own.iter().flatten().any(|run| !self.arena.is_idle(*run)) {
            return None;
        }
        let ringed = missing.iter().zip(&own).filter(|(_, own)| own.is_none());
        let counts: Vec<u32> = ringed.map(|((_, want), _)| frames(want.covered().1)).collect();
        let mut taken = self.ring.take(&counts)?.into_iter().map(|frames| self.layout.frames(frames));
        own.into_iter().map(|own| own.map(|run| (run, true)).or_else(|| Some((taken.next()?, false)))).collect()
    }

    fn own_slot(&self, want: &Want) -> Option<Run> {
        match self.dram.find(want.whole()?) {
            Place::Reserved(slot) => Some(self.layout.fixed(slot)),
            _ => None,
        }
    }

    fn read_into(&mut self, flight: Flight, run: Run) -> Result<ReadId> {
        let mut buffer = self.arena.write(run)?;
        let (_, len, _) = flight.want.covered();
        if buffer.len() < len {
            return Err(Error::Internal("a slot is smaller than what it has to hold"));
        }
        buffer.truncate(len);
        Ok(self.flights.add(flight, buffer))
    }

    /// The outcome of a read, waited for if need be.
    fn outcome(&mut self, token: ReadId, section: usize, check: Check) -> Result<Held> {
        if self.flights.is_flying(token) {
            let begin = Instant::now();
            while self.flights.is_flying(token) {
                let Some(ended) = self.flights.ended(true) else { break };
                self.land(ended, check);
            }
            // What came with it is not waited for.
            self.land_ended(check);
            self.waited[section] += begin.elapsed();
            self.stats.stall(section);
        }
        self.flights.take(token).unwrap_or(Err(Error::Internal("a read ended without a result")))
    }

    /// Takes in what has ended by now.
    fn land_ended(&mut self, check: Check) {
        while let Some(ended) = self.flights.ended(false) {
            self.land(ended, check);
        }
    }

    fn land(&mut self, (token, flight, result): (ReadId, Flight, Result<Vec<WriteLease>>), check: Check) {
        let outcome = self.arrived(&flight, result, check);
        self.flights.keep(token, outcome);
    }

    fn arrived(&mut self, flight: &Flight, result: Result<Vec<WriteLease>>, check: Check) -> Result<Held> {
        let want = &flight.want;
        let buffer = result
            .map_err(|e| self.steps.failed(want, e))?
            .pop()
            .ok_or(Error::Internal("a read came back without its buffer"))?;
        let (_, came, at) = want.covered();
        self.stats.read(want.section, want.len, came);
        check(want, &buffer[at..at + want.len])?;
        if let Some(id) = want.whole().filter(|_| flight.own) {
            self.dram.loaded(id);
        }
        Ok(Held { lease: buffer.into_read(), at, len: want.len })
    }

    /// What was read for a want, or else the tier's.
    fn served(&mut self, want: &Want, read: Option<Held>) -> Result<Held> {
        if let Some(held) = read {
            return Ok(held);
        }
        let loaded = want.home.map(|home| (self.dram.find(home.id), home.at));
        let Some((Place::Loaded(slot), at)) = loaded else {
            return Err(Error::Internal("a want that is neither loaded nor read"));
        };
        self.stats.hit(want.section, want.len);
        Ok(Held { lease: self.arena.read(self.layout.fixed(slot))?, at, len: want.len })
    }

    /// Writes a step into the trace; single records are no blocks and leave none.
    fn note(&mut self, wants: &[Want], read: &[Option<Held>]) {
        let Some(trace) = &mut self.trace else { return };
        let whole = wants.iter().zip(read).filter_map(|(want, read)| Some((want.whole()?, read.is_none())));
        trace.extend(whole.enumerate().map(|(i, (block, hit))| Access { block, hit, first: i == 0 }));
    }

    /// Begins or ends to note every access.
    pub fn trace(&mut self, on: bool) {
        self.trace = on.then(Vec::new);
    }

    /// The accesses noted since the last call.
    pub fn take_trace(&mut self) -> Vec<Access> {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Counters so far; what was read ahead is unused as long as no step has asked for it.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        self.waiting().into_iter().for_each(|(section, bytes)| stats.unused(section, bytes));
        stats
    }

    /// Time spent waiting for reads, by the section waited for.
    pub fn waited(&self) -> &[Duration] {
        &self.waited
    }

    /// The placement.
    pub fn dram(&self) -> &Dram {
        &self.dram
    }

    /// Bytes of the ring and of the slots for single records.
    pub fn ring_bytes(&self) -> u64 {
        self.layout.ring_bytes()
    }

    /// The reader's name.
    pub fn engine(&self) -> &'static str {
        self.flights.engine()
    }
}

fn bytes(missing: &[(usize, Want)]) -> usize {
    missing.iter().map(|(_, want)| want.len).sum()
}
