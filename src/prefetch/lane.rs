//! A way on which blocks come: steps, how far they are read ahead, and the part of the ring they go through.

use super::ahead::Ahead;
use super::order::Order;
use super::want::{Pick, Steps};
use crate::mem::{Arena, Run, SlotId};
use crate::tier::{Frames, Ring};
use std::sync::Arc;

/// A way that reads ahead.
pub struct Lane {
    ring: Ring,
    /// The slot that is the ring's first frame, and the size of each.
    first: u32,
    frame: usize,
    pub ahead: Ahead,
    pub steps: Box<dyn Steps>,
}

impl Lane {
    /// Through `frames` slots of `frame` bytes from `first` on; `bound` bytes are read ahead at most.
    pub fn new(first: u32, frames: u32, frame: usize, steps: Box<dyn Steps>, bound: usize) -> Lane {
        let ahead = Ahead::new(Order::circle(std::iter::once(0..steps.count())), bound);
        Lane { ring: Ring::new(frames), first, frame, ahead, steps }
    }

    /// A place for each of some sizes; none if not all of them fit now.
    pub fn take(&mut self, sizes: &[usize]) -> Option<Vec<Run>> {
        let counts: Vec<u32> = sizes.iter().map(|bytes| bytes.max(&1).div_ceil(self.frame) as u32).collect();
        let taken = self.ring.take(&counts)?;
        Some(taken.into_iter().map(|frames| run(self.first, frames)).collect())
    }

    /// The frames of a place that its bytes `begin..begin + len` lie in.
    pub fn part(&self, area: Run, begin: usize, len: usize) -> Run {
        let (first, end) = (begin / self.frame, (begin + len).div_ceil(self.frame));
        Run { first: SlotId(area.first.0 + first as u32), count: (end - first) as u32 }
    }

    /// Takes back the frames that nobody reads or writes any more.
    pub fn reclaim(&mut self, arena: &Arc<Arena>) {
        self.ring.reclaim(|frames| arena.is_idle(run(self.first, frames)));
    }

    /// Takes other steps, once each, from the first on.
    pub fn choose(&mut self, steps: Chosen) {
        self.ahead = Ahead::new(Order::line(steps.count()), usize::MAX);
        self.steps = Box::new(steps);
    }

    /// Takes other steps, round and round; nothing is under way for those it had.
    pub fn take_up(&mut self, steps: Box<dyn Steps>) {
        self.ahead = Ahead::new(Order::circle(std::iter::once(0..steps.count())), self.ahead.bound());
        self.steps = steps;
    }
}

fn run(first: u32, frames: Frames) -> Run {
    Run { first: SlotId(first + frames.first), count: frames.count }
}

/// Steps that were told.
#[derive(Default)]
pub struct Chosen(pub Vec<Arc<[Pick]>>);

impl Steps for Chosen {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn picks(&self, step: usize) -> Arc<[Pick]> {
        self.0[step].clone()
    }
}
