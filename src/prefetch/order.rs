//! Which step comes after which.

use std::ops::Range;

/// The steps that passes take, in a circle.
#[derive(Clone, Debug)]
pub struct Order(Vec<Range<usize>>);

impl Order {
    /// A circle through two ranges of steps; an empty one is left out.
    pub fn new(ranges: [Range<usize>; 2]) -> Order {
        Order(ranges.into_iter().filter(|r| !r.is_empty()).collect())
    }

    /// Steps in a round.
    pub fn len(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    /// The step behind `step`; one that is in no range goes on with the first.
    pub fn after(&self, step: usize) -> usize {
        let Some(at) = self.0.iter().position(|r| r.contains(&step)) else { return self.first(0) };
        if step + 1 < self.0[at].end { step + 1 } else { self.first(at + 1) }
    }

    fn first(&self, range: usize) -> usize {
        self.0.get(range).or(self.0.first()).map_or(0, |r| r.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_round_through_its_ranges() {
        let order = Order::new([2..4, 8..9]);
        assert_eq!((order.len(), order.after(2), order.after(3), order.after(8)), (3, 3, 8, 2));
        assert_eq!((order.after(5), order.after(100)), (2, 2), "steps outside lead to the first");
        assert_eq!(Order::new([5..5, 7..7]).after(3), 0);
    }
}
