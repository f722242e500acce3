//! What a decoded token reads from the store beside a cache: by the placement, the choice of neurons and the joining of
//! reads that an engine has. Neurons are taken to lie evenly spread, as nothing is known of a text.

use super::busy;
use super::chosen::{listed, under_checks};
use super::parts::Reach;
use super::room::Room;
use super::schedule::Schedule;
use super::walk::{Part, Walk, WalkId};
use super::widest::block_bytes;
use crate::config::{Architecture, Cut, Encoding, Ffn, Recipe, Selector, Sparse, Trace};
use crate::error::Result;
use crate::io::ALIGN;
use crate::prefetch::runs;
use crate::select::{ActiveSet, Generator, choose};
use crate::store::Catalog;
use crate::tier::{Dram, Place};
use crate::types::{CHUNK, Kind, LEVELS, Matrix, Plane};
use serde::Serialize;

/// Of one decoded token. Where thresholds choose the neurons, in `certified` and of query heads it is the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Forecast {
    /// Bytes of whole blocks, read ahead in the order of the model.
    pub swept: u64,
    /// Bytes of records that are chosen while the token is computed, with the gaps and pages that come with them.
    pub chosen: u64,
    /// Reads of these.
    pub reads: u64,
}

impl Forecast {
    /// Of a model that need not be stored anywhere, beside a cache of so many bytes, where a read costs as much as
    /// `request` bytes (none: the usual).
    ///
    /// # Errors
    /// Those of [`super::Needs::of`]; `Error::CacheTooSmall`.
    pub fn of(
        arch: &Architecture,
        encoding: &Encoding,
        recipe: &Recipe,
        cache: u64,
        request: Option<u64>,
    ) -> Result<Forecast> {
        recipe.validate(arch)?;
        let catalog = Catalog::new(arch, encoding);
        let schedule = Schedule::new(arch, &catalog, recipe)?;
        let room = Room::new(arch, &catalog, [recipe])?;
        let dram = Dram::place(&room.blocks, room.split(cache, None)?.fixed);
        let request = request.map_or(runs::REQUEST, |bytes| bytes as usize);
        let mut token = Token {
            catalog: &catalog,
            schedule: &schedule,
            room: &room,
            dram: &dram,
            request,
            read: Forecast::default(),
        };
        token.sweep(schedule.walk(WalkId::Head)?);
        let mut ranking = Ranking::new(arch);
        for layer in 0..arch.layers {
            for part in swept(recipe, &schedule) {
                token.sweep(schedule.walk(WalkId::Layer(layer, part))?);
            }
            if let Ffn::Sparse(sparse) = &recipe.ffn {
                token.choose(sparse, layer, &mut ranking)?;
            }
        }
        Ok(token.read)
    }
}

/// The parts of a layer of which a decode token may read every block: all but those of neurons that are ranked.
fn swept(recipe: &Recipe, schedule: &Schedule) -> Vec<Part> {
    let chosen = schedule.reached(Kind::Decode, Reach::Chosen).into_iter();
    let chosen = chosen.filter(|part| recipe.sparse().is_none() || matches!(part, Part::Attention(_)));
    schedule.reached(Kind::Decode, Reach::Swept).into_iter().chain(chosen).collect()
}

/// A decoded token and what it has read so far.
struct Token<'a> {
    catalog: &'a Catalog,
    schedule: &'a Schedule,
    room: &'a Room,
    dram: &'a Dram,
    request: usize,
    read: Forecast,
}

impl Token<'_> {
    /// Reads what the cache does not hold of a walk.
    fn sweep(&mut self, walk: &Walk) {
        for (section, chunk) in walk.sections.iter().flat_map(|id| (0..walk.chunks()).map(move |chunk| (*id, chunk))) {
            if self.is_missing(section, chunk) {
                let layout = self.catalog.section(section);
                self.read.swept += pages(chunk * CHUNK * layout.stride, block_bytes(layout, chunk));
            }
        }
    }

    /// Reads what it does not hold of the neurons that a layer's ranking leaves.
    fn choose(&mut self, sparse: &Sparse, layer: usize, ranking: &mut Ranking) -> Result<()> {
        let scanned = sparse.selector.scans();
        if let Some((level, count)) = scanned.zip(sparse.selector.candidates(layer)) {
            let set = ranking.set(layer, &Cut::Top([0, 0, count]));
            let walk = self.schedule.walk(WalkId::Layer(layer, Part::Scan(level)))?;
            self.pick(walk, set, |chunk, _, _| set.reading(chunk, Plane::Base, None));
        }
        let Some(cut) = sparse.cut(layer) else { return Ok(()) };
        let set = ranking.set(layer, &most(cut));
        let known = |matrix| scanned.filter(|_| matrix != Matrix::Down);
        let walk = self.schedule.walk(WalkId::Layer(layer, Part::Rest))?;
        self.pick(walk, set, |chunk, matrix, plane| set.reading(chunk, plane, known(matrix)));
        Ok(())
    }

    fn pick(&mut self, walk: &Walk, set: &ActiveSet, wanted: impl Fn(usize, Matrix, Plane) -> Vec<u32>) {
        for chunk in busy(set, 0..walk.chunks()) {
            for (id, records) in walk.sections.iter().zip(listed(walk, chunk, &wanted)) {
                if records.is_empty() || !self.is_missing(*id, chunk) {
                    continue;
                }
                let layout = self.catalog.section(*id);
                let records = under_checks(&records, layout.check, walk.chunk(chunk).len());
                let spans = runs::spans(&records, layout.stride, self.request);
                self.read.reads += spans.len() as u64;
                let block = chunk * CHUNK * layout.stride;
                self.read.chosen += spans.iter().map(|span| pages(block + span.begin, span.len)).sum::<u64>();
            }
        }
    }

    fn is_missing(&self, section: crate::store::SectionId, chunk: usize) -> bool {
        self.room.block(section, chunk).is_none_or(|block| self.dram.find(block) == Place::Ring)
    }
}

/// Bytes of the pages that a read covers, counted in its section, which begins on a page.
fn pages(begin: usize, len: usize) -> u64 {
    ((begin + len).next_multiple_of(ALIGN) - begin / ALIGN * ALIGN) as u64
}

/// The most that a cut takes, at the finest level it can take it at.
fn most(cut: &Cut) -> Cut {
    let Cut::Above(above) = cut else { return cut.clone() };
    let finest = LEVELS.into_iter().find(|level| cut.uses(*level));
    Cut::Top(LEVELS.map(|level| if Some(level) == finest { above.most } else { 0 }))
}

/// Active sets of neurons that are evenly spread.
struct Ranking {
    generator: Generator,
    scores: Vec<f32>,
    set: ActiveSet,
}

impl Ranking {
    fn new(arch: &Architecture) -> Ranking {
        let trace = Trace { paid: Box::new(Selector::Plane), memory: 0.0, skew: 0.0, seed: 0 };
        let generator = Generator::new(trace, arch.layers, arch.ffn);
        Ranking { generator, scores: vec![0.0; arch.ffn], set: ActiveSet::empty(1, arch.ffn) }
    }

    fn set(&mut self, layer: usize, cut: &Cut) -> &ActiveSet {
        self.generator.scores(layer, 0, &mut self.scores);
        choose(None, &self.scores, self.scores.len(), cut, &mut self.set);
        &self.set
    }
}
