//! A branch as the sum of its chunks, and the threads that compute them.

use super::Branch;
use crate::error::Result;
use crate::kernels::accumulate::{Accumulator, ChunkSum};
use rayon::ThreadPool;
use rayon::prelude::*;

/// A branch in the making.
pub enum BranchSum {
    /// Chunks are added in order on top of the bias.
    Whole(Accumulator),
    /// Chunks are kept one by one: `[chunks, N, hidden]`.
    Partials(Vec<f32>),
}

impl BranchSum {
    /// Of `count` rows of `width`.
    pub fn new(partial: bool, count: usize, width: usize, bias: Option<&[f32]>) -> BranchSum {
        match partial {
            true => BranchSum::Partials(vec![]),
            false => BranchSum::Whole(Accumulator::new(count, width, bias)),
        }
    }

    /// Takes the chunks that come next, in order.
    pub fn take(&mut self, chunks: &[ChunkSum]) {
        match self {
            BranchSum::Whole(sum) => sum.fold(chunks),
            BranchSum::Partials(partials) => chunks.iter().for_each(|chunk| partials.extend(chunk.rows())),
        }
    }

    /// The branch.
    pub fn finish(self) -> Branch {
        match self {
            BranchSum::Whole(sum) => Branch::Whole(sum.finish()),
            BranchSum::Partials(partials) => Branch::Partials(partials),
        }
    }
}

/// The threads, for chunks that are computed together.
#[derive(Clone, Copy)]
pub struct Team<'a>(pub &'a ThreadPool);

impl Team<'_> {
    /// Computes all of them; `one` is given each and how many threads have to share it: a chunk is one thread's, who
    /// reads its records from end to end, but for those that are left over when all threads have as many.
    pub fn each<T: Send, U: Send>(
        self,
        mut all: Vec<T>,
        one: impl Fn(T, usize) -> Result<U> + Sync + Send,
    ) -> Result<Vec<U>> {
        let (count, threads) = (all.len(), self.0.current_num_threads());
        // A single one stays on the caller's thread: its buffers may be large.
        if let Some(only) = all.pop_if(|_| count == 1) {
            return Ok(vec![one(only, threads)?]);
        }
        let left = count % threads;
        let sharing = |index| if index + left < count { 1 } else { threads.div_ceil(left) };
        let tasks = all.into_par_iter().enumerate().with_max_len(1);
        self.install(|| tasks.map(|(i, chunk)| one(chunk, sharing(i))).collect())
    }

    /// Runs a step of one of them on the pool.
    pub fn install<T: Send>(self, step: impl FnOnce() -> T + Send) -> T {
        self.0.install(step)
    }
}
