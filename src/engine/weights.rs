//! Records of the model by name: from the cache where they are, from the store where they are not.

use super::Options;
use crate::error::{Error, Result};
use crate::io::{Psync, Source};
use crate::prefetch::{Fetcher, Held, Want};
use crate::quant::{Column, Rows};
use crate::store::{SectionId, SectionLayout, Store};
use crate::tier::{Block, BlockId, Dram, least};
use crate::types::{CHUNK, Level, Levels, Matrix};
use std::collections::{BTreeMap, HashSet};
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

/// What a model needs at some levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of cache that hold every weight.
    pub all: u64,
    /// The least cache that works: one step.
    pub least: u64,
}

/// The blocks of the sections that are kept in the cache, and the steps that are leased at once.
struct Plan {
    blocks: Vec<Block>,
    /// First block of every section that has blocks.
    first: BTreeMap<SectionId, u32>,
    ring: Vec<usize>,
}

/// The model's records.
pub struct Weights {
    store: Arc<Store>,
    verify: Verify,
    verified: HashSet<BlockId>,
    first: BTreeMap<SectionId, u32>,
    fetcher: Fetcher,
}

/// A run of records of some matrices, leased; it holds its slots by itself, so the next run can be fetched meanwhile.
pub struct Leased {
    store: Arc<Store>,
    layer: Option<usize>,
    level: Level,
    count: usize,
    sections: Vec<(SectionId, Held)>,
}

impl Needs {
    /// Of a store at these levels.
    ///
    /// # Errors
    /// `Error::Usage` when a level's plane is not stored.
    pub fn of(store: &Store, levels: Levels) -> Result<Needs> {
        let plan = Plan::new(store, levels)?;
        let least = least(&plan.ring);
        let sizes: Vec<usize> = plan.blocks.iter().map(|b| b.bytes).collect();
        Ok(Needs { all: least + crate::tier::least(&sizes), least })
    }
}

impl Plan {
    fn new(store: &Store, levels: Levels) -> Result<Plan> {
        let arch = &store.manifest.architecture;
        let mut plan = Plan { blocks: vec![], first: BTreeMap::new(), ring: vec![] };
        for layer in 0..arch.layers {
            for matrix in [Matrix::Q, Matrix::K, Matrix::V, Matrix::O] {
                plan.step(store, Some(layer), &[matrix], levels.attn)?;
            }
            plan.step(store, Some(layer), arch.ffn_matrices(), levels.ffn)?;
        }
        plan.step(store, None, &[arch.head_matrix()], levels.head)?;
        let row: Vec<usize> = sections(store, None, &[Matrix::Embed], levels.embed)?
            .iter()
            .map(|id| store.section(*id).layout.stride)
            .collect();
        plan.widen_ring(row);
        Ok(plan)
    }

    /// Adds the blocks of the sections that one step reads together, and makes the ring hold one block of each.
    fn step(&mut self, store: &Store, layer: Option<usize>, matrices: &[Matrix], level: Level) -> Result<()> {
        let ids = sections(store, layer, matrices, level)?;
        let mut sizes = Vec::new();
        for id in ids {
            let layout = &store.section(id).layout;
            self.first.insert(id, self.blocks.len() as u32);
            let count = layout.records.div_ceil(CHUNK);
            self.blocks.extend((0..count).map(|i| Block {
                bytes: layout.stride * CHUNK.min(layout.records - i * CHUNK),
                position: (i as f32 + 0.5) / count as f32,
            }));
            sizes.push(layout.stride * CHUNK.min(layout.records));
        }
        self.widen_ring(sizes);
        Ok(())
    }

    fn widen_ring(&mut self, mut sizes: Vec<usize>) {
        sizes.sort_by_key(|n| std::cmp::Reverse(*n));
        self.ring.resize(self.ring.len().max(sizes.len()), 0);
        self.ring.iter_mut().zip(sizes).for_each(|(slot, size)| *slot = size.max(*slot));
    }
}

/// The sections that hold some matrices up to a level, each once.
fn sections(store: &Store, layer: Option<usize>, matrices: &[Matrix], level: Level) -> Result<Vec<SectionId>> {
    let mut ids = Vec::new();
    for plane in level.planes() {
        for matrix in matrices {
            let (id, _) = store.slice(layer, *matrix, *plane)?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
    }
    Ok(ids)
}

impl Weights {
    /// Places the store's blocks under the budget and opens the reader.
    pub fn new(store: Arc<Store>, options: &Options) -> Result<Weights> {
        let plan = Plan::new(&store, options.levels)?;
        let budget = match options.cache {
            Some(bytes) => bytes,
            None => Needs::of(&store, options.levels)?.all,
        };
        let dram = Dram::place(&plan.blocks, &plan.ring, budget)?;
        let sources = store.files.iter().map(|f| Source { path: f.path.clone(), file: f.file.clone() }).collect();
        let fetcher = Fetcher::new(dram, Box::new(Psync::over(sources)?), store.sections.len())?;
        Ok(Weights { store, verify: options.verify, verified: HashSet::new(), first: plan.first, fetcher })
    }

    /// Leases records `first..first + count` of matrices that share records, at `level`. The
    /// range is one chunk (or its short end), or a single record.
    pub fn lease(
        &mut self,
        layer: Option<usize>,
        matrices: &[Matrix],
        level: Level,
        first: usize,
        count: usize,
    ) -> Result<Leased> {
        let ids = sections(&self.store, layer, matrices, level)?;
        if ids.iter().any(|id| !is_run(&self.store.section(*id).layout, first, count)) {
            return Err(Error::Internal("a lease that is neither a chunk nor a single checked record"));
        }
        let wants: Vec<Want> = ids.iter().map(|id| self.want(*id, first, count)).collect();
        let held = self.fetch(&wants)?;
        Ok(Leased { store: self.store.clone(), layer, level, count, sections: ids.into_iter().zip(held).collect() })
    }

    fn want(&self, id: SectionId, first: usize, count: usize) -> Want {
        let section = self.store.section(id);
        let stride = section.layout.stride;
        let block = self.first.get(&id).map(|base| {
            let begin = first / CHUNK * CHUNK;
            let records = CHUNK.min(section.layout.records - begin);
            (BlockId(base + (first / CHUNK) as u32), (first - begin) * stride, records * stride)
        });
        let offset = section.begin + (first * stride) as u64;
        Want { section: id.0 as usize, file: section.file, offset, len: count * stride, block }
    }

    fn fetch(&mut self, wants: &[Want]) -> Result<Vec<Held>> {
        let Weights { store, verify, verified, fetcher, .. } = self;
        let mut check = |want: &Want, bytes: &[u8]| check(store, *verify, verified, want, bytes);
        fetcher.fetch(wants, &mut check)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The tier and its counters.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }
}

/// Whether records `first..first + count` are what the cache and the checksums know: a whole chunk, or one record of
/// a section that checks records one by one.
fn is_run(layout: &SectionLayout, first: usize, count: usize) -> bool {
    let chunk = first.is_multiple_of(CHUNK) && count == CHUNK.min(layout.records.saturating_sub(first));
    count > 0 && (chunk || (count == 1 && layout.check == 1 && first < layout.records))
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
    store.check_records(id, first, bytes)?;
    verified.extend(whole);
    Ok(())
}

impl Leased {
    /// One matrix's records of the run.
    pub fn rows(&self, matrix: Matrix) -> Result<Rows<'_>> {
        let columns = self.level.planes().iter().map(|plane| {
            let (id, offset) = self.store.slice(self.layer, matrix, *plane)?;
            let held = self.sections.iter().find(|(have, _)| *have == id);
            let (_, held) = held.ok_or(Error::Internal("records of a matrix that was not leased"))?;
            Ok(Column { bytes: held, stride: self.store.section(id).layout.stride, offset })
        });
        let columns = columns.collect::<Result<_>>()?;
        let width = self.store.manifest.architecture.hidden;
        Ok(Rows { coding: self.store.manifest.encoding.coding, level: self.level, width, count: self.count, columns })
    }
}
