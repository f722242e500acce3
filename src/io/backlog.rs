//! What waits to be handed to the system: reads that somebody waits for already go first.

use std::collections::VecDeque;

/// Two queues, the urgent one served first.
#[derive(Debug)]
pub struct Backlog<T> {
    urgent: VecDeque<T>,
    usual: VecDeque<T>,
}

impl<T> Backlog<T> {
    /// Nothing waits.
    pub fn new() -> Backlog<T> {
        Backlog { urgent: VecDeque::new(), usual: VecDeque::new() }
    }

    /// Puts one behind those of its kind.
    pub fn push(&mut self, one: T, urgent: bool) {
        if urgent { &mut self.urgent } else { &mut self.usual }.push_back(one);
    }

    /// Puts one that was begun before all others.
    pub fn push_first(&mut self, one: T) {
        self.urgent.push_front(one);
    }

    /// The next.
    pub fn pop(&mut self) -> Option<T> {
        self.urgent.pop_front().or_else(|| self.usual.pop_front())
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.urgent.len() + self.usual.len()
    }

    /// Takes out all.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.urgent.drain(..).chain(self.usual.drain(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_urgent_goes_first_and_what_was_begun_before_it() {
        let mut backlog = Backlog::new();
        [(1, false), (2, true), (3, false), (4, true)].into_iter().for_each(|(one, urgent)| backlog.push(one, urgent));
        backlog.push_first(5);
        assert_eq!((backlog.len(), backlog.pop()), (5, Some(5)));
        assert_eq!(backlog.drain().collect::<Vec<_>>(), [2, 4, 1, 3]);
        assert_eq!((backlog.len(), backlog.pop()), (0, None));
    }
}
