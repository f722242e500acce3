//! Steps in, leased bytes out; reads run ahead of the steps.

use super::flights::{Flight, Flights, Token};
use super::order::Order;
use super::want::{Held, Steps, Want};
use crate::error::{Error, Result};
use crate::io::Reader;
use crate::mem::{Arena, PIECE, Run, SlotId, WriteLease};
use crate::tier::{BlockId, Dram, FRAME, Frames, Place, Ring, Stats, frames};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Checks a want that was just read, before anyone uses it.
pub type Check<'a> = &'a mut dyn FnMut(&Want, &[u8]) -> Result<()>;

/// How the slots of an arena are used: ring frames first (a slab of their own), then one slot per plane of a single
/// row, then the tier's.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Frames of the ring.
    pub ring: u32,
    /// Sizes of the slots for single rows.
    pub rows: Vec<usize>,
}

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

/// A step whose reads were begun before it was asked for.
struct Ahead {
    step: usize,
    bytes: usize,
    /// Index of the want, and its read.
    reads: Vec<(usize, Token)>,
}

/// The tier, its memory and the reader that fills it.
pub struct Fetcher {
    dram: Dram,
    ring: Ring,
    layout: Layout,
    arena: Arc<Arena>,
    flights: Flights,
    steps: Box<dyn Steps>,
    order: Order,
    /// In the order of the steps.
    queue: VecDeque<Ahead>,
    /// The next step to look at for reading ahead, and how many were looked at and not yet asked for.
    cursor: usize,
    looked: usize,
    /// Bytes that may be under way or waiting ahead of their step.
    lookahead: usize,
    stats: Stats,
    waited: Vec<Duration>,
    trace: Option<Vec<Access>>,
}

impl Layout {
    /// Frames of a ring at most: it lies in one slab.
    pub const MOST: u32 = (PIECE / FRAME) as u32;

    /// An arena for this layout and a tier's slots.
    pub fn arena(&self, dram: &Dram) -> Result<Arc<Arena>> {
        Arena::new(&[&vec![FRAME; self.ring as usize], &self.rows, dram.slots()])
    }

    fn row(&self, index: usize) -> SlotId {
        SlotId(self.ring + index as u32)
    }

    fn fixed(&self, slot: u32) -> SlotId {
        SlotId(self.ring + self.rows.len() as u32 + slot)
    }
}

fn run(frames: Frames) -> Run {
    Run { first: SlotId(frames.first), count: frames.count }
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
            order: Order::new([0..steps.count(), 0..0]),
            steps,
            queue: VecDeque::new(),
            cursor: 0,
            looked: 0,
            lookahead,
            stats: Stats::new(sections),
            waited: vec![Duration::ZERO; sections],
            trace: None,
        }
    }

    /// Says which steps the coming passes take; others are not read ahead.
    pub fn follow(&mut self, ranges: [Range<usize>; 2]) {
        self.order = Order::new(ranges);
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
        while let Some(ended) = self.flights.ended(false) {
            self.land(ended, check);
        }
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

    /// Serves wants outside of the order, such as a token's embedding row.
    ///
    /// # Errors
    /// As `fetch`.
    pub fn fetch_rows(&mut self, wants: &[Want], check: Check) -> Result<Vec<Held>> {
        let held = self.rows(wants, check);
        if held.is_err() {
            self.forget(check);
        }
        held
    }

    fn rows(&mut self, wants: &[Want], check: Check) -> Result<Vec<Held>> {
        let mut reads = Vec::with_capacity(wants.len());
        for (index, want) in wants.iter().enumerate() {
            let loaded = want.block.is_some_and(|(id, ..)| matches!(self.dram.find(id), Place::Loaded(_)));
            reads.push(match loaded {
                true => None,
                false => {
                    let flight = Flight { want: *want, own: false };
                    Some(self.read_into(flight, self.layout.row(index).into())?)
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
    fn begun(&mut self, step: usize, wants: &[Want], check: Check) -> Result<Vec<(usize, Token)>> {
        self.looked = self.looked.saturating_sub(1);
        if self.queue.front().is_some_and(|ahead| ahead.step == step) {
            return Ok(self.queue.pop_front().map(|ahead| ahead.reads).unwrap_or_default());
        }
        if wants.iter().all(|want| self.is_loaded(want)) {
            return Ok(vec![]);
        }
        // Not what was expected: begin anew from here.
        self.forget(check);
        self.cursor = self.order.after(step);
        match self.begin(step, usize::MAX)? {
            true => Ok(self.queue.pop_front().map(|ahead| ahead.reads).unwrap_or_default()),
            false => Err(Error::Internal("a step wants more than the ring has")),
        }
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
        self.queue.clear();
        self.flights.clear();
        self.looked = 0;
        self.reclaim();
    }

    /// Section and bytes of what was read ahead and waits for its step.
    fn waiting(&self) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for ahead in &self.queue {
            let wants = self.steps.wants(ahead.step);
            let landed = ahead.reads.iter().filter(|(_, token)| self.flights.is_here(*token)).map(|(i, _)| &wants[*i]);
            // A block with a slot of its own is not lost.
            found.extend(landed.filter(|want| !self.is_loaded(want)).map(|want| (want.section, want.len)));
        }
        found
    }

    /// Takes back the frames that nobody reads or writes any more.
    fn reclaim(&mut self) {
        self.ring.reclaim(|frames| self.arena.is_idle(run(frames)));
    }

    /// Begins the reads of the steps ahead, as far as the ring and the bound allow, and hands all to the reader.
    fn advance(&mut self) -> Result<()> {
        self.reclaim();
        while self.looked < self.order.len() && self.begin(self.cursor, self.lookahead)? {
            self.cursor = self.order.after(self.cursor);
            self.looked += 1;
        }
        self.flights.launch();
        Ok(())
    }

    /// Begins to read what a step misses; false where there is no room now, or more than `bound` bytes would be ahead.
    fn begin(&mut self, step: usize, bound: usize) -> Result<bool> {
        let missing = self.missing(step);
        if missing.is_empty() {
            return Ok(true);
        }
        let bytes = missing.iter().map(|(_, want)| want.len).sum::<usize>();
        if self.queue.iter().map(|ahead| ahead.bytes).sum::<usize>() + bytes > bound {
            return Ok(false);
        }
        let Some(runs) = self.assign(&missing) else { return Ok(false) };
        let begun = missing
            .into_iter()
            .zip(runs)
            .map(|((i, want), (run, own))| Ok((i, self.read_into(Flight { want, own }, run)?)));
        let reads = begun.collect::<Result<_>>()?;
        self.queue.push_back(Ahead { step, bytes, reads });
        Ok(true)
    }

    /// Whether all that a step wants is in the tier.
    pub fn holds(&self, step: usize) -> bool {
        self.is_settled() || self.steps.wants(step).iter().all(|want| self.is_loaded(want))
    }

    /// Whether all is in the tier and nothing under way: then there is nothing to look ahead for.
    fn is_settled(&self) -> bool {
        self.dram.is_complete() && self.queue.is_empty() && !self.flights.any()
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
        let mut taken = self.ring.take(&counts)?.into_iter().map(run);
        own.into_iter().map(|own| own.map(|run| (run, true)).or_else(|| Some((taken.next()?, false)))).collect()
    }

    fn own_slot(&self, want: &Want) -> Option<Run> {
        match self.dram.find(want.whole()?) {
            Place::Reserved(slot) => Some(self.layout.fixed(slot).into()),
            _ => None,
        }
    }

    fn read_into(&mut self, flight: Flight, run: Run) -> Result<Token> {
        let mut buffer = self.arena.write(run)?;
        let (_, len, _) = flight.want.covered();
        if buffer.len() < len {
            return Err(Error::Internal("a slot is smaller than what it has to hold"));
        }
        buffer.truncate(len);
        Ok(self.flights.add(flight, buffer))
    }

    /// The outcome of a read, waited for if need be.
    fn outcome(&mut self, token: Token, section: usize, check: Check) -> Result<Held> {
        if self.flights.is_flying(token) {
            let begin = Instant::now();
            while self.flights.is_flying(token) {
                let Some(ended) = self.flights.ended(true) else { break };
                self.land(ended, check);
            }
            self.waited[section] += begin.elapsed();
            self.stats.stall(section);
        }
        self.flights.take(token).unwrap_or(Err(Error::Internal("a read ended without a result")))
    }

    fn land(&mut self, (token, flight, result): (Token, Flight, Result<Vec<WriteLease>>), check: Check) {
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
        let loaded = want.block.map(|(id, at, _)| (self.dram.find(id), at));
        let Some((Place::Loaded(slot), at)) = loaded else {
            return Err(Error::Internal("a want that is neither loaded nor read"));
        };
        self.stats.hit(want.section, want.len);
        Ok(Held { lease: self.arena.read(self.layout.fixed(slot))?, at, len: want.len })
    }

    /// Writes a step into the trace; rows are no blocks and leave none.
    fn note(&mut self, wants: &[Want], read: &[Option<Held>]) {
        let Some(trace) = &mut self.trace else { return };
        let whole = wants.iter().zip(read).filter_map(|(want, read)| Some((want.whole()?, read.is_none())));
        trace.extend(whole.enumerate().map(|(i, (block, hit))| Access { block, hit, first: i == 0 }));
    }

    /// Begins or ends to note every access.
    pub fn record(&mut self, on: bool) {
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

    /// Bytes of the ring and of the slots for rows.
    pub fn ring_bytes(&self) -> u64 {
        let rows = self.layout.rows.iter().map(|n| crate::tier::paged(*n)).sum::<u64>();
        u64::from(self.layout.ring) * FRAME as u64 + rows
    }

    /// The reader's name.
    pub fn engine(&self) -> &'static str {
        self.flights.engine()
    }
}
