//! Leases of chosen chunks, of which only some records are read where the cache does not hold them.

use super::walk::{Walk, WalkId};
use super::weights::{Leased, Weights, want};
use crate::error::Result;
use crate::prefetch::{Held, Pick};
use crate::store::SectionId;
use crate::types::{CHUNK, Matrix, Plane};
use std::sync::Arc;

/// A chunk of a walk and what is wanted of it.
struct Chosen {
    chunk: usize,
    /// By section of the walk: places in the chunk, rising; none is read of a section without any.
    records: Vec<Vec<u32>>,
}

impl Chosen {
    fn new(walk: &Walk, chunk: usize, wanted: &impl Fn(usize, Matrix, Plane) -> Vec<u32>) -> Chosen {
        Chosen { chunk, records: listed(walk, chunk, wanted) }
    }

    /// What is to be read of it, section by section.
    fn picks(&self, weights: &Weights, walk: &Walk) -> Vec<Pick> {
        let range = walk.chunk(self.chunk);
        let pick = |(id, records): (&SectionId, &Vec<u32>)| {
            let records = &under_checks(records, weights.store().section(*id).layout.check, range.len());
            let block = want(weights.store(), weights.room(), *id, range.start, range.len());
            weights.pick(block, records)
        };
        walk.sections.iter().zip(&self.records).filter(|(_, records)| !records.is_empty()).map(pick).collect()
    }

    /// What was leased, by section of the walk.
    fn by_section(&self, held: Vec<Held>) -> Vec<Option<Held>> {
        let mut held = held.into_iter();
        self.records.iter().map(|records| if records.is_empty() { None } else { held.next() }).collect()
    }
}

/// The records of a chunk that are wanted, by section of the walk: rising places.
pub fn listed(walk: &Walk, chunk: usize, wanted: &impl Fn(usize, Matrix, Plane) -> Vec<u32>) -> Vec<Vec<u32>> {
    let mut marked = vec![[false; CHUNK]; walk.sections.len()];
    for (matrix, plane, at) in walk.parts() {
        wanted(chunk, matrix, plane).iter().for_each(|record| marked[at.section][*record as usize] = true);
    }
    let listed = |marks: [bool; CHUNK]| (0..CHUNK as u32).filter(|record| marks[*record as usize]).collect();
    marked.into_iter().map(listed).collect()
}

/// All records under the checksums of some: what is read is checked. In a chunk of `count` records.
pub fn under_checks(records: &[u32], check: usize, count: usize) -> Vec<u32> {
    let same = |a: &u32, b: &u32| *a as usize / check == *b as usize / check;
    let all = |of: &[u32]| {
        let first = of[0] as usize / check * check;
        first as u32..count.min(first + check) as u32
    };
    records.chunk_by(same).flat_map(all).collect()
}

impl Weights {
    /// Leases some chunks of a walk in order, those that are there already together, `most` at most, and gives them to
    /// `each`. Of a chunk only the records are sure to be there that `wanted(chunk, matrix, plane)` lists: rising places
    /// in it. Where the cache holds all chunks nobody is asked for records, which would take longer than the leases.
    ///
    /// # Errors
    /// As [`Weights::lease`], and `each`'s.
    pub fn visit_chosen(
        &mut self,
        walk: WalkId,
        chunks: &[usize],
        most: usize,
        wanted: impl Fn(usize, Matrix, Plane) -> Vec<u32>,
        mut each: impl FnMut(&[Leased]) -> Result<()>,
    ) -> Result<()> {
        let walk = self.schedule().walk(walk)?.clone();
        if chunks.iter().all(|chunk| self.fetcher().holds(walk.first + chunk)) {
            return chunks.chunks(most).try_for_each(|chunks| each(&self.lease_held(&walk, chunks)?));
        }
        let chosen: Vec<Chosen> = chunks.iter().map(|chunk| Chosen::new(&walk, *chunk, &wanted)).collect();
        self.choose(chosen.iter().map(|one| one.picks(self, &walk)).collect())?;
        let mut step = 0;
        while step < chosen.len() {
            let run = self.lease_chosen(&walk, &chosen, step, most)?;
            step += run.len();
            each(&run)?;
        }
        Ok(())
    }

    /// Chunks that the cache holds.
    fn lease_held(&mut self, walk: &Arc<Walk>, chunks: &[usize]) -> Result<Vec<Leased>> {
        let lease = |chunk: &usize| {
            let held = self.fetcher_mut().fetch_held(walk.first + chunk)?;
            Ok(self.leased(walk.clone(), walk.chunk(*chunk), held.into_iter().map(Some).collect()))
        };
        chunks.iter().map(lease).collect()
    }

    /// The chosen chunk whose turn it is, with those behind it that need not be waited for.
    fn lease_chosen(&mut self, walk: &Arc<Walk>, chosen: &[Chosen], first: usize, most: usize) -> Result<Vec<Leased>> {
        let mut run = Vec::new();
        for (step, one) in chosen.iter().enumerate().skip(first).take(most) {
            if !run.is_empty() && !self.fetcher().is_ready(step) {
                break;
            }
            let held = one.by_section(self.fetch_chosen(step)?);
            run.push(self.leased(walk.clone(), walk.chunk(one.chunk), held));
        }
        Ok(run)
    }
}
