//! What is read ahead: the steps whose reads were begun before they were asked for.

use super::flights::ReadId;
use super::order::Order;
use std::collections::VecDeque;
use std::ops::Range;

/// A step whose reads were begun.
#[derive(Debug)]
pub struct Begun {
    /// The step.
    pub step: usize,
    /// Bytes of its reads.
    pub bytes: usize,
    /// Index of the want, and its read.
    pub reads: Vec<(usize, ReadId)>,
}

/// How far reading went ahead, in the order of the steps.
pub struct Ahead {
    order: Order,
    queue: VecDeque<Begun>,
    /// The next step to look at, and how many were looked at and not yet asked for.
    cursor: usize,
    looked: usize,
    /// Bytes that may be under way or waiting ahead of their step.
    bound: usize,
}

impl Ahead {
    /// Nothing so far, of `steps` steps in their order; `bound` bytes at most.
    pub fn new(steps: usize, bound: usize) -> Ahead {
        Ahead { order: Order::new([0..steps]), queue: VecDeque::new(), cursor: 0, looked: 0, bound }
    }

    /// Says which steps the coming passes take; others are not looked at.
    pub fn follow(&mut self, ranges: impl IntoIterator<Item = Range<usize>>) {
        self.order = Order::new(ranges);
    }

    /// The next step to look at; none once all of a round were.
    pub fn next(&self) -> Option<usize> {
        (self.looked < self.order.len()).then_some(self.cursor)
    }

    /// Whether so many bytes more stay within the bound.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.queue.iter().map(|begun| begun.bytes).sum::<usize>() + bytes <= self.bound
    }

    /// The step that was next has been looked at, and what it misses begun.
    pub fn looked(&mut self, begun: Option<Begun>) {
        self.queue.extend(begun);
        self.cursor = self.order.after(self.cursor);
        self.looked += 1;
    }

    /// A step is asked for: its reads, if they come next.
    pub fn asked(&mut self, step: usize) -> Option<Begun> {
        self.looked = self.looked.saturating_sub(1);
        self.queue.front().filter(|begun| begun.step == step)?;
        self.queue.pop_front()
    }

    /// Forgets everything; reading goes on behind `step`, if one is told.
    pub fn restart(&mut self, step: Option<usize>) {
        self.queue.clear();
        self.looked = 0;
        self.cursor = step.map_or(self.cursor, |step| self.order.after(step));
    }

    /// What was begun and not asked for.
    pub fn begun(&self) -> impl Iterator<Item = &Begun> {
        self.queue.iter()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn begun(step: usize, bytes: usize) -> Option<Begun> {
        Some(Begun { step, bytes, reads: vec![] })
    }

    #[test]
    fn it_goes_no_further_than_a_round_and_its_bound() {
        let mut ahead = Ahead::new(3, 100);
        assert!(ahead.next() == Some(0) && ahead.has_room(100) && !ahead.has_room(101));
        ahead.looked(begun(0, 60));
        assert!(ahead.next() == Some(1) && ahead.has_room(40) && !ahead.has_room(41));
        ahead.looked(None);
        ahead.looked(begun(2, 40));
        assert_eq!(ahead.next(), None, "the next would be step 0 again");
        assert_eq!(ahead.asked(0).unwrap().step, 0);
        assert!(ahead.next() == Some(0) && ahead.has_room(60));
        assert!(ahead.asked(1).is_none() && ahead.asked(2).is_some(), "step 1 missed nothing");
    }

    #[test]
    fn a_restart_goes_on_behind_the_step() {
        let mut ahead = Ahead::new(5, 100);
        ahead.looked(begun(0, 100));
        ahead.restart(Some(2));
        assert!(ahead.next() == Some(3) && ahead.has_room(100) && ahead.begun().count() == 0);
        ahead.restart(None);
        assert_eq!(ahead.next(), Some(3));
    }
}
