//! Steps in, leased bytes out; reads run ahead of the steps.

use super::flights::{Flight, Flights};
use super::lane::{Chosen, Lane};
use super::layout::Layout;
use super::order::Order;
use super::stop::Stop;
use super::want::{Held, Pick, Steps, Want};
use super::way::Way;
use crate::error::{Error, Result};
use crate::io::Reader;
use crate::mem::Arena;
use crate::tier::{BlockId, Dram, FRAME, Place, Stats};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Checks what was just read, before anyone uses it.
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
    pub(super) dram: Dram,
    pub(super) layout: Layout,
    pub(super) arena: Arc<Arena>,
    pub(super) flights: Flights,
    scheduled: Lane,
    chosen: Lane,
    pub(super) stats: Stats,
    pub(super) waited: Vec<Duration>,
    trace: Option<Vec<Access>>,
    pub(super) stop: Arc<Stop>,
    /// When it was last asked.
    pub(super) asked: Instant,
}

impl Fetcher {
    /// A fetcher over the slots of `arena`, which `layout.arena(&dram)` made. `lookahead` bounds the bytes read ahead of
    /// the scheduled steps; `sections` counts those that wants name.
    pub fn new(
        dram: Dram,
        layout: Layout,
        arena: Arc<Arena>,
        reader: Box<dyn Reader>,
        steps: Box<dyn Steps>,
        sections: usize,
        lookahead: usize,
    ) -> Fetcher {
        let chosen = Lane::new(layout.ring, layout.chosen, Layout::PAGE, Box::new(Chosen::default()), usize::MAX);
        Fetcher {
            dram,
            scheduled: Lane::new(0, layout.ring, FRAME, steps, lookahead),
            chosen,
            layout,
            arena,
            flights: Flights::new(reader),
            stats: Stats::new(sections),
            waited: vec![Duration::ZERO; sections],
            trace: None,
            stop: Arc::new(Stop::never()),
            asked: Instant::now(),
        }
    }

    /// Ends with `Error::Interrupted` where it would wait for reads and that is wanted: what is under way goes on, and whoever
    /// calls again finds it.
    pub fn heed(&mut self, stop: Arc<Stop>) {
        self.stop = stop;
    }

    /// Says which steps the coming passes take, rising; others are not read ahead.
    pub fn follow(&mut self, ranges: impl IntoIterator<Item = Range<usize>>) {
        self.scheduled.ahead.follow(Order::circle(ranges));
    }

    /// Takes other scheduled steps, over the same blocks, in place of all that it had; what was read ahead of those is
    /// given up, what failed is read again when it is asked for. `blocks` are all that scheduled and chosen steps may pick.
    pub fn serve(&mut self, steps: Box<dyn Steps>, blocks: &[BlockId], check: Check) {
        [Way::Scheduled, Way::Chosen].into_iter().for_each(|way| self.give_up(way, check));
        self.chosen.choose(Chosen::default());
        self.dram.watch(blocks);
        self.scheduled.take_up(steps);
    }

    /// Serves all that a scheduled step picks, in order, and begins to read for the steps that follow it.
    ///
    /// What the ring holds of earlier steps must have been dropped, unless the tier [`Fetcher::holds`] this one.
    ///
    /// # Errors
    /// The reader's or `check`'s; nothing that failed is kept, and the fetcher stays usable. `Error::Interrupted` as
    /// [`Fetcher::heed`] says.
    pub fn fetch(&mut self, step: usize, check: Check) -> Result<Vec<Held>> {
        self.fetch_by(Way::Scheduled, step, check)
    }

    /// Takes steps that are known only now, in place of those that were chosen before. All that fits into their ring is
    /// begun at once; scheduled steps go on being read ahead, behind it.
    ///
    /// # Errors
    /// `Error::Internal` for picks that name no block; `Error::Interrupted`, and nothing is taken up then.
    pub fn choose(&mut self, steps: Vec<Vec<Pick>>, check: Check) -> Result<()> {
        if steps.iter().flatten().any(|pick| pick.block.whole().is_none()) {
            return Err(Error::Internal("a choice that is of no block"));
        }
        self.forget(Way::Chosen, check)?;
        self.chosen.choose(Chosen(steps.into_iter().map(Into::into).collect()));
        self.advance()
    }

    /// Serves all that chosen step `step` picks, as [`Fetcher::fetch`] does: a block with only its picked records there,
    /// each in its place. Steps come in order; what the ring of chosen steps holds of earlier ones must have been dropped,
    /// unless this one [`Fetcher::is_ready`].
    ///
    /// # Errors
    /// As `fetch`, and `Error::Internal` for a step that was not chosen.
    pub fn fetch_chosen(&mut self, step: usize, check: Check) -> Result<Vec<Held>> {
        match step < self.chosen.steps.count() {
            true => self.fetch_by(Way::Chosen, step, check),
            false => Err(Error::Internal("a step that was not chosen")),
        }
    }

    /// Serves all that a scheduled step picks out of its turn, which the tier [`Fetcher::holds`]: nothing is begun.
    ///
    /// # Errors
    /// `Error::Internal` where the tier does not hold it.
    pub fn fetch_held(&mut self, step: usize) -> Result<Vec<Held>> {
        let picks = self.scheduled.steps.picks(step);
        self.note(&picks, &picks.iter().map(|_| None).collect::<Vec<_>>());
        picks.iter().map(|pick| self.served(&pick.block, pick.useful(), None)).collect()
    }

    fn fetch_by(&mut self, way: Way, step: usize, check: Check) -> Result<Vec<Held>> {
        let held = self.step(way, step, check);
        self.after(&held, way, check);
        held
    }

    /// Where a call failed no outcome may be left behind that nobody asks for: its frames would never come back. What was
    /// interrupted is asked for again, or forgotten by who asks for something else.
    fn after(&mut self, held: &Result<Vec<Held>>, way: Way, check: Check) {
        if held.as_ref().is_err_and(|error| !matches!(error, Error::Interrupted)) {
            self.give_up(way, check);
        }
    }

    fn step(&mut self, way: Way, step: usize, check: Check) -> Result<Vec<Held>> {
        let picks = self.lane(way).steps.picks(step);
        let mut held: Vec<Option<Held>> = picks.iter().map(|_| None).collect();
        if !self.is_settled() {
            self.land_ended(check);
            let begun = self.begun(way, step, &picks, check)?;
            self.advance()?;
            let begun = self.awaited(way, begun, &picks, check)?;
            let came: Vec<_> = begun.readings.iter().map(|one| (one.pick, self.gathered(one, &picks))).collect();
            for (pick, outcome) in came {
                held[pick] = Some(outcome?);
            }
        }
        self.note(&picks, &held);
        picks.iter().zip(held).map(|(pick, held)| self.served(&pick.block, pick.useful(), held)).collect()
    }

    /// Serves wants outside of the order, such as those of the embedding, together: a slot for single records is each
    /// one's, in turn.
    ///
    /// # Errors
    /// As `fetch`; `Error::Internal` for more wants than there are such slots.
    pub fn fetch_singles(&mut self, wants: &[Want], check: Check) -> Result<Vec<Held>> {
        let held = self.singles(wants, check);
        self.after(&held, Way::Single, check);
        held
    }

    fn singles(&mut self, wants: &[Want], check: Check) -> Result<Vec<Held>> {
        if wants.len() > self.layout.singles.len() {
            return Err(Error::Internal("more single records at once than have slots"));
        }
        // What an interrupted call left is in the way of this one.
        self.forget(Way::Single, check)?;
        let mut reads = Vec::with_capacity(wants.len());
        for (index, want) in wants.iter().enumerate() {
            let loaded = want.home.is_some_and(|home| matches!(self.dram.find(home.id), Place::Loaded(_)));
            reads.push(match loaded {
                true => None,
                false => {
                    let flight = Flight { way: Way::Single, want: *want, useful: want.len, own: false };
                    Some(self.read_into(flight, self.layout.single(index))?)
                }
            });
        }
        self.flights.launch();
        // Every read is waited for, also behind a failure: its slot must be free for the next row.
        for (read, want) in reads.iter().zip(wants) {
            self.wait_for(read.as_slice(), want.section, check)?;
        }
        let came: Vec<_> = reads.into_iter().map(|read| read.map(|token| self.outcome(token))).collect();
        let held = came.into_iter().map(Option::transpose).collect::<Result<Vec<_>>>()?;
        wants.iter().zip(held).map(|(want, held)| self.served(want, want.len, held)).collect()
    }

    /// What was read for a want, or else the tier's.
    fn served(&mut self, want: &Want, useful: usize, read: Option<Held>) -> Result<Held> {
        if let Some(held) = read {
            return Ok(held);
        }
        let loaded = want.home.map(|home| (self.dram.find(home.id), home.at));
        let Some((Place::Loaded(slot), at)) = loaded else {
            return Err(Error::Internal("a want that is neither loaded nor read"));
        };
        self.stats.hit(want.section, useful);
        Ok(Held { lease: self.arena.read(self.layout.fixed(slot))?, at, len: want.len })
    }

    pub(super) fn lane(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::Chosen => &mut self.chosen,
            Way::Scheduled | Way::Single => &mut self.scheduled,
        }
    }

    /// Whether all that a scheduled step picks is in the tier.
    pub fn holds(&self, step: usize) -> bool {
        self.is_settled() || self.has_all(&self.scheduled.steps.picks(step))
    }

    /// Whether all that a chosen step picks is there, in the tier or in the ring: it takes no frames from others.
    pub fn is_ready(&self, step: usize) -> bool {
        match self.chosen.ahead.readings(step) {
            Some(readings) => readings.iter().flat_map(|one| &one.reads).all(|read| self.flights.is_here(*read)),
            None => step < self.chosen.steps.count() && self.has_all(&self.chosen.steps.picks(step)),
        }
    }

    /// Whether all is in the tier and nothing under way: then there is nothing to look ahead for.
    fn is_settled(&self) -> bool {
        self.dram.is_complete()
            && [&self.scheduled, &self.chosen].iter().all(|lane| lane.ahead.is_empty())
            && !self.flights.any()
    }

    /// The error of a read that failed, with the name of what was wanted.
    pub(super) fn failed(&self, want: &Want, error: Error) -> Error {
        self.scheduled.steps.failed(want, error)
    }

    /// Writes a step into the trace; single records are no blocks and leave none.
    fn note(&mut self, picks: &[Pick], read: &[Option<Held>]) {
        let Some(trace) = &mut self.trace else { return };
        let whole = picks.iter().zip(read).filter_map(|(pick, read)| Some((pick.block.whole()?, read.is_none())));
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
        self.flights.waiting().for_each(|(_, section, bytes)| stats.unused(section, bytes));
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

    /// Bytes of the rings and of the slots for single records.
    pub fn ring_bytes(&self) -> u64 {
        self.layout.ring_bytes()
    }

    /// The reader's name.
    pub fn engine(&self) -> &'static str {
        self.flights.engine()
    }
}
