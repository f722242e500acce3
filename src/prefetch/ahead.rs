//! What is read ahead: the steps whose reads were begun before they were asked for.

use super::flights::ReadId;
use super::order::Order;
use crate::mem::Run;
use std::collections::VecDeque;

/// What is read for one of a step's picks.
#[derive(Debug)]
pub struct Reading {
    /// Index of the pick.
    pub pick: usize,
    /// Where the block lies while it is leased; of a block that is not read whole, most is not there.
    pub area: Run,
    /// The reads into it.
    pub reads: Vec<ReadId>,
}

/// A step whose reads were begun.
#[derive(Debug)]
pub struct Begun {
    /// The step.
    pub step: usize,
    /// Bytes of its reads.
    pub bytes: usize,
    /// By pick; those that are loaded have none.
    pub readings: Vec<Reading>,
}

/// How far reading went ahead, in the order of the steps.
pub struct Ahead {
    order: Order,
    queue: VecDeque<Begun>,
    /// The next step to look at, and how many were looked at and not yet asked for.
    cursor: Option<usize>,
    looked: usize,
    /// Bytes that may be under way or waiting ahead of their step.
    bound: usize,
}

impl Ahead {
    /// Nothing so far of `order`; `bound` bytes at most.
    pub fn new(order: Order, bound: usize) -> Ahead {
        Ahead { cursor: order.first(), order, queue: VecDeque::new(), looked: 0, bound }
    }

    /// Bytes that may be under way or waiting ahead of their step.
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// Says which steps come from here on; others are not looked at.
    pub fn follow(&mut self, order: Order) {
        self.cursor = self.cursor.or(order.first());
        self.order = order;
    }

    /// The next step to look at; none once all were.
    pub fn next(&self) -> Option<usize> {
        self.cursor.filter(|_| self.looked < self.order.len())
    }

    /// Whether so many bytes more stay within the bound.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.queue.iter().map(|begun| begun.bytes).sum::<usize>() + bytes <= self.bound
    }

    /// The step that was next has been looked at, and what it misses begun.
    pub fn looked(&mut self, begun: Option<Begun>) {
        self.queue.extend(begun);
        self.cursor = self.cursor.and_then(|step| self.order.after(step));
        self.looked += 1;
    }

    /// A step is asked for: its reads, if they come next.
    pub fn asked(&mut self, step: usize) -> Option<Begun> {
        self.looked = self.looked.saturating_sub(1);
        self.queue.front().filter(|begun| begun.step == step)?;
        self.queue.pop_front()
    }

    /// Takes back what was asked for and is still read: it will be asked for again.
    pub fn put_back(&mut self, begun: Begun) {
        self.looked += 1;
        self.queue.push_front(begun);
    }

    /// Forgets everything; reading goes on behind `step`, if one is told.
    pub fn restart(&mut self, step: Option<usize>) {
        self.queue.clear();
        self.looked = 0;
        self.cursor = step.map_or(self.cursor, |step| self.order.after(step));
    }

    /// What is read for a step, if that was begun.
    pub fn readings(&self, step: usize) -> Option<&[Reading]> {
        let begun = self.queue.iter().find(|begun| begun.step == step)?;
        Some(&begun.readings)
    }

    /// Whether nothing was begun that is not asked for.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn begun(step: usize, bytes: usize) -> Option<Begun> {
        Some(Begun { step, bytes, readings: vec![] })
    }

    #[test]
    fn it_goes_no_further_than_a_round_and_its_bound() {
        let mut ahead = Ahead::new(Order::circle(std::iter::once(0..3)), 100);
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
    fn what_is_put_back_comes_next() {
        let mut ahead = Ahead::new(Order::circle(std::iter::once(0..3)), 100);
        ahead.looked(begun(0, 60));
        ahead.looked(begun(1, 40));
        let first = ahead.asked(0).unwrap();
        ahead.put_back(first);
        assert!(ahead.next() == Some(2) && !ahead.has_room(1));
        assert_eq!([0, 1].map(|step| ahead.asked(step).unwrap().step), [0, 1]);
    }

    #[test]
    fn a_restart_goes_on_behind_the_step() {
        let mut ahead = Ahead::new(Order::circle(std::iter::once(0..5)), 100);
        ahead.looked(begun(0, 100));
        ahead.restart(Some(2));
        assert!(ahead.next() == Some(3) && ahead.has_room(100) && ahead.is_empty());
        ahead.restart(None);
        assert_eq!(ahead.next(), Some(3));
    }

    #[test]
    fn a_line_is_looked_at_once() {
        let mut ahead = Ahead::new(Order::line(2), usize::MAX);
        ahead.looked(begun(0, 1));
        ahead.looked(begun(1, 1));
        assert!(ahead.asked(0).is_some() && ahead.next().is_none());
        ahead.restart(Some(0));
        assert_eq!(ahead.next(), Some(1));
    }
}
