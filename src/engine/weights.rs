//! Records of the model by name: from the cache where they are, from the store where they are not.

use super::Options;
use super::schedule::{RING_BYTES, Schedule, sections};
use crate::error::{Error, Result};
use crate::io::{Opened, Source, open};
use crate::prefetch::{Fetcher, Held, Layout, Steps, Want};
use crate::quant::{PlaneView, Rows};
use crate::store::{SectionId, SectionLayout, Store};
use crate::tier::{BlockId, Dram};
use crate::types::{CHUNK, Level, Matrix};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// When records are checked against their checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// On a block's first read (the default).
    First,
    /// On every read.
    Always,
    /// Never.
    Never,
}

/// The model's records.
pub struct Weights {
    store: Arc<Store>,
    verify: Verify,
    verified: HashSet<BlockId>,
    schedule: Arc<Schedule>,
    fetcher: Fetcher,
    notes: Vec<String>,
}

/// A run of records of some matrices, leased; drop it before the next is asked for, whose frames it may hold.
pub struct Leased {
    store: Arc<Store>,
    layer: Option<usize>,
    level: Level,
    count: usize,
    sections: Vec<(SectionId, Held)>,
}

/// The schedule of an open store: where its blocks lie.
struct Located {
    store: Arc<Store>,
    /// Of every step: asked for several times a token.
    wants: Vec<Arc<[Want]>>,
}

impl Located {
    fn new(store: &Arc<Store>, schedule: &Schedule) -> Located {
        let wants = |step| {
            let (sections, chunk) = schedule.at(step);
            let records = |id: SectionId| CHUNK.min(store.section(id).layout.records - chunk * CHUNK);
            sections.iter().map(|id| want(store, schedule, *id, chunk * CHUNK, records(*id))).collect()
        };
        Located { store: store.clone(), wants: (0..schedule.steps()).map(wants).collect() }
    }
}

impl Steps for Located {
    fn count(&self) -> usize {
        self.wants.len()
    }

    fn wants(&self, step: usize) -> Arc<[Want]> {
        self.wants[step].clone()
    }

    fn failed(&self, want: &Want, error: Error) -> Error {
        let section = self.store.section(SectionId(want.section as u32));
        let stride = section.layout.stride as u64;
        let (first, count) = ((want.offset - section.begin) / stride, want.len as u64 / stride);
        Error::Records { section: section.layout.name.clone(), first, count, source: Box::new(error) }
    }
}

fn want(store: &Store, schedule: &Schedule, id: SectionId, first: usize, count: usize) -> Want {
    let section = store.section(id);
    let stride = section.layout.stride;
    let begin = first / CHUNK * CHUNK;
    let size = CHUNK.min(section.layout.records - begin) * stride;
    let block = schedule.block(id, first / CHUNK).map(|block| (block, (first - begin) * stride, size));
    let offset = section.begin + (first * stride) as u64;
    Want { section: id.0 as usize, file: section.file, offset, len: count * stride, block }
}

impl Weights {
    /// Places the store's blocks under the budget and opens the reader.
    pub fn new(store: Arc<Store>, options: &Options) -> Result<Weights> {
        let schedule = Arc::new(Schedule::new(&store.manifest.architecture, store.catalog(), options.levels)?);
        let budget = options.cache.unwrap_or_else(|| schedule.needs(store.catalog()).all);
        let split = schedule.split(budget, options.lookahead)?;
        let dram = Dram::place(&schedule.blocks, split.fixed);
        let layout = Layout { ring: split.ring, rows: schedule.rows.clone() };
        let arena = layout.arena(&dram)?;
        let sources = store.files.iter().map(|f| Source { path: f.path.clone(), file: f.file.clone() }).collect();
        let Opened { reader, notes } = open(options.io, sources, &arena)?;
        let steps = Box::new(Located::new(&store, &schedule));
        // Blocks with slots of their own are read ahead as far as those of the ring.
        let ahead = options.lookahead.map_or(RING_BYTES, |bytes| bytes as usize);
        let fetcher = Fetcher::new(dram, layout, arena, reader, steps, store.sections.len(), ahead);
        Ok(Weights { store, verify: options.verify, verified: HashSet::new(), schedule, fetcher, notes })
    }

    /// Says what the coming calls will ask for, so that it is read ahead.
    pub fn follow(&mut self, layers: Range<usize>, head: bool) {
        let head = if head { self.schedule.head() } else { 0..0 };
        self.fetcher.follow([self.schedule.layers(layers), head]);
    }

    /// Leases records `first..first + count`, one chunk or its short end, of matrices that share records, at the level
    /// that the schedule was made for.
    pub fn lease(
        &mut self,
        layer: Option<usize>,
        matrices: &[Matrix],
        level: Level,
        first: usize,
        count: usize,
    ) -> Result<Leased> {
        let step = self.schedule.step(layer, matrices[0], first).filter(|_| first.is_multiple_of(CHUNK));
        let step = step.ok_or(Error::Internal("a lease that is no chunk"))?;
        let ids = self.schedule.at(step).0.to_vec();
        let Weights { store, verify, verified, fetcher, .. } = self;
        let held = fetcher.fetch(step, &mut |want, bytes| check(store, *verify, verified, want, bytes))?;
        Ok(Leased { store: store.clone(), layer, level, count, sections: ids.into_iter().zip(held).collect() })
    }

    /// Leases the chunk that begins at record `first` of `records`, and those behind it that are in the cache, `most` at
    /// most: what is computed together costs the threads one meeting.
    pub fn lease_run(
        &mut self,
        layer: Option<usize>,
        matrices: &[Matrix],
        level: Level,
        records: Range<usize>,
        most: usize,
    ) -> Result<Vec<Leased>> {
        let mut run = Vec::new();
        for first in records.clone().step_by(CHUNK).take(most) {
            let step = self.schedule.step(layer, matrices[0], first);
            if !run.is_empty() && !step.is_some_and(|step| self.fetcher.holds(step)) {
                break;
            }
            run.push(self.lease(layer, matrices, level, first, CHUNK.min(records.end - first))?);
        }
        Ok(run)
    }

    /// Leases one row of the embedding.
    pub fn lease_row(&mut self, level: Level, row: usize) -> Result<Leased> {
        let Weights { store, verify, verified, schedule, fetcher, .. } = self;
        let ids = sections(store.catalog(), None, &[Matrix::Embed], level)?;
        if ids.iter().any(|id| !is_single(&store.section(*id).layout, row)) {
            return Err(Error::Internal("a row that has no checksum of its own"));
        }
        let wants: Vec<Want> = ids.iter().map(|id| want(store, schedule, *id, row, 1)).collect();
        let held = fetcher.fetch_rows(&wants, &mut |want, bytes| check(store, *verify, verified, want, bytes))?;
        let sections = ids.into_iter().zip(held).collect();
        Ok(Leased { store: store.clone(), layer: None, level, count: 1, sections })
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

    /// The order of its blocks.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }
}

/// Whether a record can be read and checked by itself.
fn is_single(layout: &SectionLayout, record: usize) -> bool {
    layout.check == 1 && record < layout.records
}

/// Checks what was just read, as the mode asks; single rows are always checked unless the mode is `Never`.
fn check(store: &Store, verify: Verify, verified: &mut HashSet<BlockId>, want: &Want, bytes: &[u8]) -> Result<()> {
    let whole = want.block.filter(|(_, at, size)| *at == 0 && *size == want.len).map(|(id, ..)| id);
    let known = whole.is_some_and(|id| verified.contains(&id));
    if verify == Verify::Never || (verify == Verify::First && known) {
        return Ok(());
    }
    let id = SectionId(want.section as u32);
    let section = store.section(id);
    let first = (want.offset - section.begin) as usize / section.layout.stride;
    store.check_records(id, first, bytes, verify == Verify::Always)?;
    verified.extend(whole);
    Ok(())
}

impl Leased {
    /// Records of the run.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One matrix's records of the run.
    pub fn rows(&self, matrix: Matrix) -> Result<Rows<'_>> {
        let mut planes = [PlaneView::EMPTY; 3];
        for (view, plane) in planes.iter_mut().zip(self.level.planes()) {
            let (id, offset) = self.store.slice(self.layer, matrix, *plane)?;
            let held = self.sections.iter().find(|(have, _)| *have == id);
            let (_, held) = held.ok_or(Error::Internal("records of a matrix that was not leased"))?;
            *view = PlaneView::of(held, self.store.section(id).layout.stride, offset);
        }
        let (coding, width) = (self.store.manifest.encoding.coding, self.store.manifest.architecture.hidden);
        Ok(Rows { coding, level: self.level, width, records: self.count, planes })
    }
}
