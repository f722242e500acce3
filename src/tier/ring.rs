//! The read ring: frames taken in a circle, oldest given back first.
//!
//! What does not stay in memory goes through it in the order of the model, so a circle wastes nothing but its end, and
//! sizes may differ from step to step. Who still reads a frame is not known here: `reclaim` asks.

use std::collections::VecDeque;

/// Bytes of a frame. A block of 256 records is a multiple of it (strides are multiples of 64), so only the short last
/// block of a section leaves part of one unused.
pub const FRAME: usize = 16 << 10;

/// Frames `first..first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// The first frame.
    pub first: u32,
    /// Frames; at least one.
    pub count: u32,
}

/// A circle of frames.
#[derive(Clone, Debug)]
pub struct Ring {
    size: u32,
    /// In the order they were taken.
    taken: VecDeque<Frames>,
    /// Where the next run begins, if it fits.
    head: u32,
}

/// Frames that hold so many bytes.
pub fn frames(bytes: usize) -> u32 {
    bytes.max(1).div_ceil(FRAME) as u32
}

impl Ring {
    /// A ring of `size` frames, all free.
    pub fn new(size: u32) -> Ring {
        Ring { size, taken: VecDeque::new(), head: 0 }
    }

    /// A run for each of `counts`, or nothing if not all of them fit now. An empty ring takes whatever adds up to at
    /// most its size.
    pub fn take(&mut self, counts: &[u32]) -> Option<Vec<Frames>> {
        let before = (self.taken.len(), self.head);
        let runs: Option<Vec<Frames>> = counts.iter().map(|count| self.take_one(*count)).collect();
        if runs.is_none() {
            self.taken.truncate(before.0);
            self.head = before.1;
        }
        runs
    }

    fn take_one(&mut self, count: u32) -> Option<Frames> {
        let first = match self.taken.front() {
            None if count <= self.size => 0,
            None => return None,
            // Taken frames lie between the tail and the head, and may have a gap at the end of the circle.
            Some(tail) if self.head > tail.first && self.size - self.head >= count => self.head,
            Some(tail) if self.head > tail.first && tail.first >= count => 0,
            Some(tail) if self.head < tail.first && tail.first - self.head >= count => self.head,
            Some(_) => return None,
        };
        self.head = first + count;
        self.taken.push_back(Frames { first, count });
        self.taken.back().copied()
    }

    /// Takes back runs, oldest first, up to the first that is not `idle`.
    pub fn reclaim(&mut self, idle: impl Fn(Frames) -> bool) {
        while self.taken.front().is_some_and(|run| idle(*run)) {
            self.taken.pop_front();
        }
    }

    /// Checks what must hold after every operation; for tests.
    pub fn validate(&self) -> Result<(), String> {
        let mut owned = vec![false; self.size as usize];
        for run in &self.taken {
            for frame in run.first..run.first + run.count {
                match owned.get_mut(frame as usize) {
                    Some(owned) if !*owned => *owned = true,
                    _ => return Err(format!("frame {frame} is taken twice or lies beyond {}", self.size)),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_never_overlap_and_come_back_in_order(size in 1u32..40, ops in prop::collection::vec((prop::collection::vec(1u32..12, 1..4), any::<bool>()), 1..80)) {
            let mut ring = Ring::new(size);
            let mut held: VecDeque<Frames> = VecDeque::new();
            for (counts, release) in ops {
                let before = ring.clone();
                match ring.take(&counts) {
                    Some(runs) => {
                        prop_assert_eq!(runs.iter().map(|r| r.count).collect::<Vec<_>>(), counts);
                        held.extend(runs);
                    }
                    None => {
                        prop_assert_eq!(&before.taken, &ring.taken);
                        prop_assert!(!held.is_empty() || counts.iter().sum::<u32>() > size);
                    }
                }
                ring.validate().unwrap();
                if release {
                    held.pop_front();
                    ring.reclaim(|run| !held.contains(&run));
                    prop_assert_eq!(&ring.taken, &held);
                }
            }
        }
    }

    #[test]
    fn a_run_held_in_the_middle_holds_what_came_after_it() {
        let mut ring = Ring::new(4);
        let runs = ring.take(&[1, 1, 1]).unwrap();
        ring.reclaim(|run| run != runs[1]);
        assert_eq!(ring.take(&[3]), None);
        assert_eq!(ring.take(&[1, 1]), Some(vec![Frames { first: 3, count: 1 }, Frames { first: 0, count: 1 }]));
    }
}
