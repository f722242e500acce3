//! Records of the model by name: from the cache where they are, from the store where they are not.

use super::Options;
use super::room::{RING_BYTES, Room};
use super::schedule::Schedule;
use super::verified::Verified;
use super::walk::{Walk, WalkId};
use crate::config::{Coding, Recipe};
use crate::error::{Error, Result};
use crate::io::{Opened, Source, open};
use crate::prefetch::{Fetcher, Held, Home, Layout, Pick, Steps, Want, runs};
use crate::quant::{PlaneView, Rows};
use crate::store::{SectionId, SectionLayout, Store};
use crate::tier::Dram;
use crate::types::{CHUNK, Kind, Level, Matrix};
use std::ops::Range;
use std::sync::Arc;

/// The model's records.
pub struct Weights {
    store: Arc<Store>,
    verified: Verified,
    room: Room,
    schedule: Schedule,
    fetcher: Fetcher,
    /// What a read costs beside its bytes.
    request: usize,
    notes: Vec<String>,
}

/// Records of a walk, leased: drop them before the next are asked for, whose frames they may hold.
pub struct Leased {
    walk: Arc<Walk>,
    coding: Coding,
    width: usize,
    records: Range<usize>,
    /// By section of the walk; none of what was not asked for.
    held: Vec<Option<Held>>,
}

/// The schedule of an open store: where its blocks lie.
struct Located {
    store: Arc<Store>,
    /// Of every step: asked for several times a token.
    picks: Vec<Arc<[Pick]>>,
}

impl Located {
    fn new(store: &Arc<Store>, room: &Room, schedule: &Schedule) -> Located {
        let picks = |walk: &Walk, chunk| {
            let Range { start, end } = walk.chunk(chunk);
            walk.sections.iter().map(|id| Pick::all(want(store, room, *id, start, end - start))).collect()
        };
        let of = |walk: &Arc<Walk>| (0..walk.chunks()).map(|chunk| picks(walk, chunk)).collect::<Vec<_>>();
        Located { store: store.clone(), picks: schedule.walks().iter().flat_map(of).collect() }
    }
}

impl Steps for Located {
    fn count(&self) -> usize {
        self.picks.len()
    }

    fn picks(&self, step: usize) -> Arc<[Pick]> {
        self.picks[step].clone()
    }

    fn failed(&self, want: &Want, error: Error) -> Error {
        let section = self.store.section(SectionId(want.section as u32));
        let stride = section.layout.stride as u64;
        let (first, count) = ((want.offset - section.begin) / stride, want.len as u64 / stride);
        Error::Records { section: section.layout.name.clone(), first, count, source: Box::new(error) }
    }
}

/// Records of a section, which lie in one block.
pub(super) fn want(store: &Store, room: &Room, id: SectionId, first: usize, count: usize) -> Want {
    let section = store.section(id);
    let stride = section.layout.stride;
    let begin = first / CHUNK * CHUNK;
    let size = CHUNK.min(section.layout.records - begin) * stride;
    let home = room.block(id, first / CHUNK).map(|id| Home { id, at: (first - begin) * stride, size });
    let offset = section.begin + (first * stride) as u64;
    Want { section: id.0 as usize, file: section.file, offset, len: count * stride, home }
}

impl Weights {
    /// Places the store's blocks under the budget and opens the reader.
    pub fn new(store: Arc<Store>, options: &Options) -> Result<Weights> {
        let (arch, catalog, recipe) = (&store.manifest.architecture, store.catalog(), &options.recipe);
        let schedule = Schedule::new(arch, catalog, recipe)?;
        let room = Room::new(arch, catalog, std::iter::once(recipe).chain(&options.serves))?;
        let budget = options.cache.unwrap_or_else(|| room.all());
        let split = room.split(budget, options.lookahead)?;
        let mut dram = Dram::place(&room.blocks, split.fixed);
        dram.watch(&room.blocks_of(&schedule));
        let layout = Layout { ring: split.ring, chosen: split.chosen, singles: room.embeddings() };
        let arena = layout.arena(&dram)?;
        let sources = store.files.iter().map(|f| Source { path: f.path.clone(), file: f.file.clone() }).collect();
        let Opened { reader, notes } = open(options.io, sources, &arena)?;
        let steps = Box::new(Located::new(&store, &room, &schedule));
        // Blocks with slots of their own are read ahead as far as those of the ring.
        let ahead = options.lookahead.map_or(RING_BYTES, |bytes| bytes as usize);
        let fetcher = Fetcher::new(dram, layout, arena, reader, steps, store.sections.len(), ahead);
        let verified = Verified::new(&store, options.verify);
        let request = options.request.map_or(runs::REQUEST, |bytes| bytes as usize);
        let mut weights = Weights { store, verified, room, schedule, fetcher, request, notes };
        weights.follow_decode()?;
        Ok(weights)
    }

    /// Takes the order of another recipe: what the cache holds stays, what was read ahead is forgotten.
    ///
    /// # Errors
    /// As [`Schedule::new`] and [`Room::check`]; nothing has changed then.
    pub fn serve(&mut self, recipe: &Recipe) -> Result<()> {
        let schedule = Schedule::new(&self.store.manifest.architecture, self.store.catalog(), recipe)?;
        self.room.check(self.store.catalog(), &schedule)?;
        let steps = Box::new(Located::new(&self.store, &self.room, &schedule));
        self.schedule = schedule;
        let Weights { store, verified, room, schedule, fetcher, .. } = self;
        fetcher.serve(steps, &room.blocks_of(schedule), &mut |want, bytes| verified.check(store, want, bytes));
        self.follow_decode()
    }

    fn follow_decode(&mut self) -> Result<()> {
        self.follow(0..self.store.manifest.architecture.layers, true, Kind::Decode)
    }

    /// Says what the coming calls will ask for, so that it is read ahead.
    ///
    /// # Errors
    /// `Error::Internal` for layers that there are not.
    pub fn follow(&mut self, layers: Range<usize>, head: bool, kind: Kind) -> Result<()> {
        let mut steps = self.schedule.swept(layers, kind)?;
        if head {
            steps.push(self.schedule.walk(WalkId::Head)?.steps());
        }
        self.fetcher.follow(steps);
        Ok(())
    }

    /// Leases a chunk of a walk.
    ///
    /// # Errors
    /// `Error::Internal` where there is none; those of reading it, naming its records.
    pub fn lease(&mut self, walk: WalkId, chunk: usize) -> Result<Leased> {
        let walk = self.schedule.walk(walk)?.clone();
        let step = walk.steps().nth(chunk).ok_or(Error::Internal("a lease that is no chunk"))?;
        let Weights { store, verified, fetcher, .. } = self;
        let held = fetcher.fetch(step, &mut |want, bytes| verified.check(store, want, bytes))?;
        let records = walk.chunk(chunk);
        Ok(self.leased(walk, records, held.into_iter().map(Some).collect()))
    }

    /// What is to be read of records of a block: rising places, at least one.
    pub(super) fn pick(&self, block: Want, records: &[u32]) -> Pick {
        let stride = self.store.section(SectionId(block.section as u32)).layout.stride;
        Pick { block, spans: runs::spans(records, stride, self.request) }
    }

    /// Begins to read what chosen chunks need.
    pub(super) fn choose(&mut self, steps: Vec<Vec<Pick>>) -> Result<()> {
        let Weights { store, verified, fetcher, .. } = self;
        fetcher.choose(steps, &mut |want, bytes| verified.check(store, want, bytes))
    }

    /// What one of them needs, in the order it was chosen in.
    pub(super) fn fetch_chosen(&mut self, step: usize) -> Result<Vec<Held>> {
        let Weights { store, verified, fetcher, .. } = self;
        fetcher.fetch_chosen(step, &mut |want, bytes| verified.check(store, want, bytes))
    }

    /// Leases chunks of a walk in order and gives them to `each`: the first of those that are left, with those behind it
    /// that are in the cache, `most` at most. What is computed together costs the threads one meeting.
    ///
    /// # Errors
    /// As [`Weights::lease`], and `each`'s.
    pub fn visit(
        &mut self,
        walk: WalkId,
        mut chunks: impl Iterator<Item = usize> + Clone,
        most: usize,
        mut each: impl FnMut(&[Leased]) -> Result<()>,
    ) -> Result<()> {
        loop {
            let run = self.lease_run(walk, chunks.clone().take(most))?;
            if run.is_empty() {
                return Ok(());
            }
            chunks.nth(run.len() - 1);
            each(&run)?;
        }
    }

    fn lease_run(&mut self, walk: WalkId, chunks: impl Iterator<Item = usize>) -> Result<Vec<Leased>> {
        let first = self.schedule.walk(walk)?.steps().start;
        let mut run = Vec::new();
        for chunk in chunks {
            if !run.is_empty() && !self.fetcher.holds(first + chunk) {
                break;
            }
            run.push(self.lease(walk, chunk)?);
        }
        Ok(run)
    }

    /// Leases the embeddings of some tokens in their order, `room::EMBEDDINGS` at most; they are read together.
    ///
    /// # Errors
    /// As [`Weights::lease`].
    pub fn lease_embeddings(&mut self, tokens: &[u32]) -> Result<Vec<Leased>> {
        let Weights { store, verified, room, schedule, fetcher, .. } = self;
        let walk = schedule.embedding.clone();
        let of_row = |row: &u32| walk.sections.iter().map(|id| (*id, *row as usize)).collect::<Vec<_>>();
        let planes: Vec<(SectionId, usize)> = tokens.iter().flat_map(of_row).collect();
        if !planes.iter().all(|(id, row)| is_single(&store.section(*id).layout, *row)) {
            return Err(Error::Internal("a row that has no checksum of its own"));
        }
        let wants: Vec<Want> = planes.iter().map(|(id, row)| want(store, room, *id, *row, 1)).collect();
        let held = fetcher.fetch_singles(&wants, &mut |want, bytes| verified.check(store, want, bytes))?;
        let mut held = held.into_iter();
        let mut leased = |row: usize| {
            let held = held.by_ref().take(walk.sections.len()).map(Some).collect();
            self.leased(walk.clone(), row..row + 1, held)
        };
        Ok(tokens.iter().map(|token| leased(*token as usize)).collect())
    }

    pub(super) fn leased(&self, walk: Arc<Walk>, records: Range<usize>, held: Vec<Option<Held>>) -> Leased {
        let manifest = &self.store.manifest;
        Leased { walk, coding: manifest.encoding.coding, width: manifest.architecture.hidden, records, held }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The tier and its counters.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// The same, to begin and end records of it.
    pub fn fetcher_mut(&mut self) -> &mut Fetcher {
        &mut self.fetcher
    }

    /// What the reader could not have, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The order in which they are asked for.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Their blocks.
    pub fn room(&self) -> &Room {
        &self.room
    }
}

/// Whether a record can be read and checked by itself.
fn is_single(layout: &SectionLayout, record: usize) -> bool {
    layout.check == 1 && record < layout.records
}

impl Leased {
    /// Its records, counted in the walk.
    pub fn records(&self) -> Range<usize> {
        self.records.clone()
    }

    /// One matrix's records, at its level in the walk.
    ///
    /// # Errors
    /// As [`Leased::rows_at`].
    pub fn rows(&self, matrix: Matrix) -> Result<Rows<'_>> {
        let level = Level::of_planes(self.walk.planes(matrix)?.len());
        self.rows_at(matrix, level.ok_or(Error::Internal("a matrix without planes"))?)
    }

    /// One matrix's records, at a level whose planes the walk reads; of chosen chunks those that were asked for.
    ///
    /// # Errors
    /// `Error::Internal` for a matrix that is not of the walk, for a level above its own, and for planes of which nothing
    /// was asked for.
    pub fn rows_at(&self, matrix: Matrix, level: Level) -> Result<Rows<'_>> {
        let have = self.walk.planes(matrix)?.get(..level.plane_count());
        let mut planes = [PlaneView::EMPTY; 3];
        for (view, at) in planes.iter_mut().zip(have.ok_or(Error::Internal("planes that were not leased"))?) {
            let held = self.held[at.section].as_ref().ok_or(Error::Internal("records that were not asked for"))?;
            *view = PlaneView::of(held, at.stride, at.offset);
        }
        let Leased { coding, width, .. } = *self;
        Ok(Rows { coding, level, width, records: self.records.len(), planes })
    }
}
